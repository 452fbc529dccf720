use std::collections::BTreeMap;
use std::process::Command;

use super::*;
use crate::config::Origin;

/// A runtime that ends while the directory is looked at, as one does with its test or its program: nothing panics.
#[test]
fn a_look_that_outlives_its_runtime() {
    let directory = tempfile::tempdir().unwrap();
    // Who reads it waits until somebody has written.
    let pipe = directory.path().join("slow.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let settings = [
        ("guests", directory.path().display().to_string()),
        ("cache.directory", "off".into()),
        ("engine.instances", "1".into()),
    ];
    let settings: BTreeMap<_, _> = settings.into_iter().map(|(name, text)| (name.into(), text)).collect();
    let config = Arc::new(crate::config::resolve(&[(Origin::Flag, settings)]).unwrap().config);
    let compiler = Arc::new(Compiler::new(&config).unwrap());
    let publisher = Publisher::alone(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let reconciling = runtime.spawn(reconcile(config, compiler, publisher));
    // Opened when the look has come to it.
    let slow = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let timer = runtime.spawn(std::future::pending::<()>());
    runtime.shutdown_background();
    let outside = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    outside.block_on(async {
        assert!(timer.await.unwrap_err().is_cancelled(), "the runtime has ended");
        // Its timers as well, which end last.
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Another look would wait for another writer.
        std::fs::remove_file(&pipe).unwrap();
        drop(slow);
        let ended = tokio::time::timeout(Duration::from_secs(20), reconciling).await.unwrap();
        assert!(ended.as_ref().unwrap_err().is_cancelled(), "{ended:?}");
    });
}

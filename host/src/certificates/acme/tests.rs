use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

fn config(directory: &Path) -> Config {
    let set = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let source = [
        set("guests", &directory.display().to_string()),
        set("tls.listen", "127.0.0.1:0"),
        set("tls.acme.domains", "a.test, b.test; c.test"),
        set("tls.acme.directory", "https://127.0.0.1:14000/dir"),
    ];
    lodge_base::config::resolve(&[(lodge_base::config::Origin::Flag, source.into())]).unwrap().config
}

fn acme(directory: &Path) -> Arc<AcmeClient> {
    Arc::new(AcmeClient::new(&config(directory), &Arc::default()).unwrap().unwrap())
}

/// Returns key and chain for these names, valid for some days from now.
fn issue(names: &[&str], days: u64) -> String {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds());
    params.not_after = params.not_before + Duration::from_secs(days * 86_400);
    let key = rcgen::KeyPair::generate().unwrap();
    format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem())
}

/// Only a whole certificate for exactly the names of the settings counts; for anything else, one is ordered.
#[tokio::test]
async fn files_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let acme = acme(directory.path());
    let file = &acme.files()[0];
    assert_eq!(*file, directory.path().join(".lodge/acme/127.0.0.1-14000-dir/a.test.pem"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let good = issue(&["b.test", "a.test"], 90);
    let due = async || {
        acme.look(0).await;
        acme.certificates()[0].renewal
    };
    assert_eq!(due().await, 0, "there is none");
    write(file, &["a.test".into(), "b.test".into()], &good).unwrap();
    assert_eq!(mode(file), 0o600);
    let in_days = due().await.saturating_sub(seconds()) / 86_400;
    assert!((59..=63).contains(&in_days), "{in_days}");
    assert_eq!(acme.certificates()[1].renewal, 0, "the other one");
    let torn = &good[..good.len() - 100];
    let foreign = good.split("-----BEGIN CERTIFICATE").next().unwrap().to_owned()
        + issue(&["a.test", "b.test"], 90).split_once("-----END PRIVATE KEY-----\n").unwrap().1;
    for text in ["", "rubbish", torn, &foreign, &issue(&["a.test"], 90), &issue(&["a.test", "b.test", "c.test"], 90)] {
        fs::write(file, text).unwrap();
        assert_eq!(due().await, 0, "{text}");
        assert!(write(file, &["a.test".into(), "b.test".into()], text).is_err(), "{text}");
    }
    fs::write(file, vec![b'\n'; 1 << 20]).unwrap();
    assert_eq!(due().await, 0, "too large");
}

/// What a crash has left of a replacement is removed. OrderAttempts are bounded, whatever their file contains.
#[tokio::test]
async fn a_start_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let (file, partial) = {
        let acme = acme(directory.path());
        let file = acme.files()[0].clone();
        let partial = file.with_file_name(format!(".a.test.pem{}0123", files::PARTIAL));
        fs::write(&partial, "half a key").unwrap();
        (file, partial)
    };
    for text in ["", "rubbish", "{}", "[]", r#"{"failed":[9999999999999,1],"wait":18446744073709551615}"#] {
        fs::write(attempts_of(&file), text).unwrap();
        let due = acme(directory.path()).certificates()[0].renewal;
        assert!(due <= seconds() + 24 * 3_600, "{text}: {due}");
    }
    assert!(!partial.exists());
    // Not while another process writes here.
    let held = lock_directory(file.parent().unwrap()).unwrap().expect("nobody holds it");
    fs::write(&partial, "half a key").unwrap();
    assert!(lock_directory(file.parent().unwrap()).unwrap().is_none());
    acme(directory.path());
    assert!(partial.exists());
    drop(held);
    assert!(lock_directory(file.parent().unwrap()).unwrap().is_some());
}

/// A directory that cannot be written is an error before an authority has issued anything.
#[test]
fn a_place_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".lodge"), "").unwrap();
    let error = AcmeClient::new(&config(directory.path()), &Arc::default()).unwrap_err();
    assert!(error.starts_with("tls.acme.path: ") && error.contains("cannot be used"), "{error}");
}

/// A certificate that is due at once does not lead to a loop of orders.
#[tokio::test]
async fn a_wrong_clock_is_no_loop() {
    let directory = tempfile::tempdir().unwrap();
    let acme = acme(directory.path());
    let names: Vec<String> = vec!["a.test".into(), "b.test".into()];
    let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 4, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let text = format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem());
    write(&acme.files()[0], &names, &text).unwrap();
    acme.look(0).await;
    acme.issued(0);
    let shown = &acme.certificates()[0];
    assert!(shown.renewal >= seconds() + 100 && shown.problem.as_ref().unwrap().contains("clock"), "{shown:?}");
}

//! The screenshot of the page for the docs.

use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::json;

use super::{SOON, put, row};
use crate::harness::{Browser, Connection, Process, get, guests, root};

/// Not a promise: `cargo test -- --ignored picture` takes the screenshot for the docs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a file of the project, and takes a minute"]
async fn picture() {
    guests();
    let directory = tempfile::tempdir().unwrap();
    for name in ["hello", "users", "echo", "trap", "drip", "counter"] {
        put(directory.path(), name, &format!("{name}.wasm"));
    }
    let host = Process::serve(directory.path(), &[]).await;
    let mut browser = Browser::start().expect("chromium is installed");
    let screen = json!({ "width": 1280, "height": 960, "deviceScaleFactor": 1, "mobile": false });
    browser.call("Emulation.setDeviceMetricsOverride", screen);
    let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": "light" }] });
    browser.call("Emulation.setEmulatedMedia", scheme);
    browser.open(&format!("http://{}/", host.admin));
    let began = Instant::now();
    for (path, pause) in [("/hello?name=Ada", 6), ("/users", 25_u32), ("/users/1", 40), ("/echo", 70), ("/drip", 300)] {
        let address = host.address;
        tokio::spawn(async move {
            let mut client = Connection::http1(address).await;
            loop {
                client.get(path).await;
                // A rate that varies.
                let wave = 1.6 + (began.elapsed().as_secs_f64() / 5.0 + f64::from(pause)).sin();
                tokio::time::sleep(Duration::from_millis(pause.into()).mul_f64(wave)).await;
            }
        });
    }
    while began.elapsed() < Duration::from_secs(61) {
        get(host.address, "/trap").await;
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    let mut client = Connection::http1(host.admin).await;
    client.ask(http::Method::POST, "/v1/services/counter/disable", &[("host", "localhost")], "").await;
    browser.until(&format!("{}?.dataset.state === 'disabled'", row("counter")), SOON);
    let taken = browser.call("Page.captureScreenshot", json!({}));
    std::fs::write(
        root().join("host/src/admin/page.png"),
        BASE64_STANDARD.decode(taken["data"].as_str().unwrap()).unwrap(),
    )
    .unwrap();
}

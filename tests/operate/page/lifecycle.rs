//! The page across restarts of the host, and behind a token.

use std::path::Path;

use serde_json::json;

use super::{SOON, heard, row};
use crate::harness::{Browser, Process, get};

pub(super) async fn it_survives_a_restart(browser: &mut Browser, mut host: Process, directory: &Path) {
    for _ in 0..20 {
        get(host.address, "/hello").await;
    }
    let requests = |n: u32| format!("{}?.cells[2].lastChild.textContent === '{n} in all'", row("hello"));
    browser.until(&requests(20), SOON);
    // Records every state that is visible for a moment in between.
    browser.eval(
        "window.odd = [];
        new MutationObserver(() => {
            for (const node of document.querySelectorAll('#figures dd, tbody td:not(.version) :is(span, small)')) {
                if (/[-−]\\s*\\d|NaN|Infinity|undefined|null/.test(node.textContent)) window.odd.push(node.textContent);
            }
            // A negative rate would be drawn below the chart.
            for (const path of document.querySelectorAll('path.line')) {
                for (const [part, y] of path.getAttribute('d')?.matchAll(/[ML]\\S+ (\\S+?)(?=[MLh]|$)/g) ?? []) {
                    if (!(y >= 0 && y <= 32)) window.odd.push(part);
                }
            }
        }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true })",
    );
    let addresses = [host.address, host.admin];
    host.signal(rustix::process::Signal::TERM);
    assert!(host.ended().await.success());
    browser.until("document.body.dataset.state === 'lost'", SOON);
    browser.until("document.querySelector('.notice').textContent.includes('trying again')", SOON);
    drop(host);
    let host = Process::serve_at(directory, addresses).await;
    let back = browser.until("document.body.dataset.state === 'live'", SOON);
    eprintln!("the page is live {back:?} after the host is ready again");
    browser.until(&format!("{}?.dataset.state === 'serving'", row("hello")), SOON);
    browser.until(&requests(0), SOON);
    for path in ["/hello", "/hello", "/hello", "/logger"] {
        get(host.address, path).await;
    }
    browser.until(&requests(3), SOON);
    // Every line is shown once: those of the previous process, and those of the new one, whose numbers start again.
    browser.until(&heard(3), SOON);
    assert_eq!(browser.eval("window.odd"), json!([]));
    unreachable_only(browser);
}

/// The console only has errors about missing or failed responses.
fn unreachable_only(browser: &mut Browser) {
    let failed = |complaint: &String| complaint.contains("Failed to load resource");
    let others: Vec<_> = browser.complaints().into_iter().filter(|complaint| !failed(complaint)).collect();
    assert_eq!(others, [""; 0]);
}

pub(super) async fn it_asks_for_the_token(browser: &mut Browser, directory: &Path) {
    let token = "0123456789abcdef";
    let host = Process::serve(directory, &["--admin-token", token]).await;
    browser.open(&format!("http://{}/", host.admin));
    browser.until("document.body.dataset.state === 'locked'", SOON);
    assert_eq!(browser.eval("document.querySelector('main').checkVisibility()"), false);
    for (tried, heard) in [("not the token", "The host does not accept this token."), (token, "")] {
        browser.until("document.activeElement.id === 'token' && document.activeElement.value === ''", SOON);
        browser.call("Input.insertText", json!({ "text": tried }));
        let enter = json!({ "type": "keyDown", "key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" });
        browser.call("Input.dispatchKeyEvent", enter);
        browser.until(&format!("document.querySelector('#lock .said').textContent === '{heard}'"), SOON);
    }
    browser.until("document.body.dataset.state === 'live'", SOON);
    browser.until(&format!("{}?.checkVisibility()", row("hello")), SOON);
    // The token is kept for this tab.
    browser.eval("window.old = true");
    browser.call("Page.reload", json!({}));
    browser.until("!window.old && document.body.dataset.state === 'live'", SOON);
    unreachable_only(browser);
}

//! The parts of a composition, the messages of a service, and files of it that cannot be used now.

use std::fs;
use std::path::Path;

use super::{SOON, put, row};
use crate::harness::Browser;

const MANIFEST: &str =
    "middleware = 'middleware/gate.wasm'\nvalidate.body = 'order.json'\n[consume]\nsubject = 'orders'";
const SCHEMA: &str = r#"{"type":"object"}"#;

/// Adds the service `composed`: with a middleware, a file that is followed, and messages.
pub(super) fn compose(directory: &Path) {
    fs::create_dir(directory.join("middleware")).unwrap();
    put(directory, "gate3", "middleware/gate.wasm");
    put(directory, "echo3", "composed.wasm");
    write(directory, "order.json", SCHEMA);
    write(directory, "composed.toml", MANIFEST);
}

/// Renames a file into place, so that it is in force at once.
fn write(directory: &Path, name: &str, text: &str) {
    let partial = directory.join(".new");
    fs::write(&partial, text).unwrap();
    fs::rename(partial, directory.join(name)).unwrap();
}

pub(super) fn parts_messages_and_problems_show(browser: &mut Browser, directory: &Path) {
    let says = |list: &str, text: &str| format!("document.querySelector('#{list}').textContent.includes('{text}')");
    let state = |text: &str| format!("{}?.cells[1].lastChild.textContent === '{text}'", row("composed"));
    browser.until(&format!("{}?.dataset.state === 'serving'", row("composed")), SOON);
    browser.eval(&format!("{}.querySelector('a').click()", row("composed")));
    for text in ["Part middleware/gate.wasm", "Part composed.wasm", "Messages0 wait, 0 in flight, 0 dead"] {
        browser.until(&says("about", text), SOON);
    }
    browser.eval("document.querySelector('#close').click()");
    browser.until("location.hash === ''", SOON);

    write(directory, "order.json", "[");
    browser.until(&says("refused", "order.json: "), SOON);
    browser.until(&state("1 problem"), SOON);
    browser.eval(&format!("{}.querySelector('a').click()", row("composed")));
    browser.until(&says("about", "Problemcomposed.toml: validate.body: /"), SOON);
    browser.eval("document.querySelector('#close').click()");
    browser.until("location.hash === ''", SOON);
    write(directory, "order.json", SCHEMA);
    browser.until(&format!("!({})", says("refused", "order.json: ")), SOON);

    write(directory, "composed.toml", "no = 'key'");
    browser.until(&state("newer file refused"), SOON);
    browser.eval(&format!("{}.querySelector('a').click()", row("composed")));
    browser.until(&says("about", "Newer file refusedcomposed.toml: line 1: unknown key"), SOON);
    browser.eval("document.querySelector('#close').click()");
    browser.until("location.hash === ''", SOON);
    write(directory, "composed.toml", MANIFEST);
    browser.until(&format!("!({})", state("newer file refused")), SOON);
}

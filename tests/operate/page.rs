//! Promise: the operators' page shows what the host does, while it does it, in a real browser.

mod lifecycle;
mod parts;
mod picture;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use self::lifecycle::{it_asks_for_the_token, it_survives_a_restart};
use self::parts::{compose, parts_messages_and_problems_show};
use crate::harness::{Browser, Connection, PATIENCE, Process, eventually, get, guests, wasm};

/// What should take a second or two takes longer on a busy machine.
const SOON: Duration = PATIENCE;

/// Markup that would have a visible effect if it were interpreted, in place of a name or a header.
const HOSTILE: &str = "<img src=x onerror=window.owned=1>";
const SCRIPT: &str = "<script>window.owned=1</script>";

fn put(directory: &Path, guest: &str, name: &str) {
    std::fs::copy(wasm(guest), directory.join(name)).unwrap();
}

/// The longest valid name.
fn longest() -> String {
    "W".repeat(63)
}

/// The text of a row.
fn row(name: &str) -> String {
    format!("document.querySelector('tr[data-service=\"{name}\"]')")
}

/// One browser for all parts, because starting it takes most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_host() {
    guests();
    let directory = tempfile::tempdir().unwrap();
    for name in ["hello", "trap", "logger"] {
        put(directory.path(), name, &format!("{name}.wasm"));
    }
    put(directory.path(), "hello", &format!("{}.wasm", longest()));
    std::fs::write(directory.path().join("trap.toml"), "calls = ['users']\nhttp = ['https://*.example.org']").unwrap();
    std::fs::write(directory.path().join(format!("{HOSTILE}.wasm")), "").unwrap();
    put(directory.path(), "hello", "routed.wasm");
    let routes = "routes = ['/hi', '/hi/{name}', { path = '/post', methods = ['POST'] }]";
    std::fs::write(directory.path().join("routed.toml"), routes).unwrap();
    put(directory.path(), "hello", "hello@2.wasm");
    std::fs::write(directory.path().join("hello@2.toml"), "match = ['header:x-version=2']").unwrap();
    let far = "[upstream]\nreplicas = ['http://127.0.0.1:1']\nhealth.path = '/health'";
    std::fs::write(directory.path().join("far.toml"), far).unwrap();
    compose(directory.path());
    let Some(mut browser) = Browser::start() else { return };
    let host = Process::serve(directory.path(), &["--log-headers", "x-note"]).await;
    assert_eq!(get(host.address, "/logger").await.status, 200);
    browser.open(&format!("http://{}/", host.admin));
    it_comes_alive(&mut browser);
    rollouts_and_replicas_show(&mut browser);
    parts_messages_and_problems_show(&mut browser, directory.path());
    a_service_elsewhere_is_not_unloaded(&mut browser, &host, directory.path());
    a_dropped_in_service_appears(&mut browser, &host, directory.path()).await;
    a_trap_shows(&mut browser, &host).await;
    hostile_text_stays_text(&mut browser, &host).await;
    a_request_is_one_row(&mut browser, &host).await;
    routes_are_links(&mut browser, &host);
    it_fits_a_phone_and_both_schemes(&mut browser);
    assert_eq!(browser.complaints(), [""; 0]);
    a_version_is_rolled_back_and_one_promoted(&mut browser, directory.path());
    it_survives_a_restart(&mut browser, host, directory.path()).await;
    it_asks_for_the_token(&mut browser, directory.path()).await;
}

fn it_comes_alive(browser: &mut Browser) {
    browser.until("document.body.dataset.state === 'live'", SOON);
    browser.until("document.querySelector('#state').textContent === 'Ready'", SOON);
    for name in ["hello", "trap", "logger"] {
        browser.until(&format!("{}?.dataset.state === 'serving'", row(name)), SOON);
    }
    // Earlier log lines are shown, and new ones as well.
    browser.until("document.querySelector('#lines').textContent.includes('stock is low')", SOON);
    assert_eq!(browser.complaints(), [""; 0]);
}

fn rollouts_and_replicas_show(browser: &mut Browser) {
    let sub = |name: &str, cell: u32| format!("{}?.cells[{cell}].lastChild.textContent", row(name));
    browser.until(&format!("{} === 'gets 0 %, header:x-version=2'", sub("hello@2", 0)), SOON);
    browser.until(&format!("{} === '0 of 1 replica'", sub("far", 1)), SOON);
    // A service without an available replica is not shown as serving.
    browser.until(&format!("{}?.cells[1].firstChild.dataset.shape === 'peak'", row("far")), SOON);
    browser.until(&format!("{}?.dataset.state === 'down'", row("far")), SOON);
    let detail = |name: &str, list: &str, text: &str| {
        let open = format!("{}.querySelector('a').click()", row(name));
        (open, format!("document.querySelector('#{list}').textContent.includes('{text}')"))
    };
    for (name, list, text) in [
        ("hello", "about", "Versionshello@2 0 %"),
        ("far", "about", "http://127.0.0.1:1down (Connection refused (os error"),
        ("far", "limits", "upstream.policyleast-in-flight"),
    ] {
        let (open, said) = detail(name, list, text);
        browser.eval(&open);
        browser.until(&said, SOON);
        browser.eval("document.querySelector('#close').click()");
        // The dialog changes the address asynchronously when it closes, and would also change that of the next one.
        browser.until("location.hash === ''", SOON);
    }
}

/// An upstream has no machine code that could be unloaded.
fn a_service_elsewhere_is_not_unloaded(browser: &mut Browser, host: &Process, directory: &Path) {
    let near = format!("[upstream]\nreplicas = ['http://{}']", host.address);
    std::fs::write(directory.join("near.toml"), near).unwrap();
    for (name, acts) in [("near", "Disable"), ("hello", "DisableUnload")] {
        browser.until(&format!("{}?.dataset.state === 'serving'", row(name)), SOON);
        browser.eval(&format!("{}.querySelector('a').click()", row(name)));
        browser.until(&format!("document.querySelector('#acts').textContent === '{acts}'"), SOON);
        browser.eval("document.querySelector('#close').click()");
        browser.until("location.hash === ''", SOON);
    }
}

/// It appears without a reload. The time since the first response of the service is printed: the watch and the compiler before
/// that are not part of the page.
async fn a_dropped_in_service_appears(browser: &mut Browser, host: &Process, directory: &Path) {
    put(directory, "hello", ".late.part");
    let renamed = Instant::now();
    std::fs::rename(directory.join(".late.part"), directory.join("late.wasm")).unwrap();
    eventually("it is served", async || get(host.address, "/late").await.status == 200).await;
    let published = renamed.elapsed();
    let shown = browser.until(&format!("{}?.dataset.state === 'serving'", row("late")), SOON);
    eprintln!("a dropped-in service: served {published:?} after its file's rename, in sight {shown:?} later");
}

async fn a_trap_shows(browser: &mut Browser, host: &Process) {
    let errors = |n: u32| format!("{}.cells[3].lastChild.textContent === '{n} in all'", row("trap"));
    for n in 1..=2 {
        let failed = get(host.address, "/trap").await;
        assert_eq!(failed.status, 502);
        browser.until(&errors(n), SOON);
        if n == 1 {
            browser.eval(&format!("{}.querySelector('a').click()", row("trap")));
        }
        // The second one arrives while the details are open.
        let error = format!("document.querySelector('[data-error=\"{}\"]')", failed.header("x-request-id"));
        browser.until(&format!("{error}?.checkVisibility()"), SOON);
        let text = browser.eval(&format!("{error}.textContent"));
        assert!(text.as_str().unwrap().starts_with("502trapped"), "{text}");
        assert!(text.as_str().unwrap().contains(&failed.header("x-request-id")), "{text}");
        let frames = browser.eval(&format!("{error}.querySelectorAll('details li').length"));
        assert!(frames.as_u64().unwrap() > 0, "no backtrace");
    }
    let granted = "document.querySelector('#limits').textContent.startsWith('callsusershttphttps://*.example.org')";
    browser.until(granted, SOON);
    let unknown = "document.querySelector('#limits').textContent.includes('calls usersno service of this name')";
    browser.until(unknown, SOON);
    browser.eval("document.querySelector('#close').click()");
}

/// The number of log lines of the guest `logger`.
fn heard(times: u32) -> String {
    format!(
        "[...document.querySelectorAll('[data-log]')].filter(line => /stock is low/.test(line.textContent)).length === {times}"
    )
}

async fn hostile_text_stays_text(browser: &mut Browser, host: &Process) {
    let note = format!("{SCRIPT}{HOSTILE}");
    let mut client = Connection::http1(host.address).await;
    let response = client.ask(http::Method::GET, "/logger", &[("x-note", &note)], "").await;
    assert_eq!(response.status, 200);
    browser.until(&format!("document.querySelector('#lines').textContent.includes({})", json!(note)), SOON);
    browser.until(&format!("document.querySelector('#refused').textContent.includes({})", json!(HOSTILE)), SOON);
    browser.until(&heard(2), SOON);
    let longest = longest();
    browser.eval(&format!("{}.querySelector('a').click()", row(&longest)));
    browser.until(&format!("document.querySelector('#detail-name').textContent === '{longest}'"), SOON);
    for (what, expected) in [
        ("document.querySelectorAll('script').length", json!(1)),
        ("document.querySelectorAll('style').length", json!(1)),
        ("document.querySelectorAll('img, iframe, object, embed').length", json!(0)),
        ("typeof window.owned", json!("undefined")),
        (
            "[...new Set([...document.querySelectorAll('#lines *')].map(node => node.tagName))].sort().join()",
            json!("DETAILS,DIV,SPAN,SUMMARY"),
        ),
        (
            r"/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e]/.test(document.querySelector('#lines').textContent)",
            json!(false),
        ),
    ] {
        assert_eq!(browser.eval(what), expected, "{what}");
    }
}

/// Both ask first, and then change the files of the directory.
fn a_version_is_rolled_back_and_one_promoted(browser: &mut Browser, directory: &Path) {
    let acts = "document.querySelector('#acts').textContent";
    for (action, question, said, logged) in [
        ("Roll back", "Roll back hello@2? ", "hello@2 is removed.", "removed"),
        ("Promote", "Promote hello@2? ", "hello@2 replaces its service", "promoted"),
    ] {
        if !directory.join("hello@2.wasm").exists() {
            put(directory, "trap", "hello@2.wasm");
            std::fs::write(directory.join("hello@2.toml"), "match = ['header:x-version=2']").unwrap();
        }
        browser.until(&format!("{}?.dataset.state === 'serving'", row("hello@2")), SOON);
        browser.eval(&format!("{}.querySelector('a').click()", row("hello@2")));
        browser.until(&format!("{acts} === 'DisableUnloadPromoteRoll back'"), SOON);
        let click = |label: &str| {
            format!("[...document.querySelectorAll('#acts button')].find(it => it.textContent === '{label}').click()")
        };
        browser.eval(&click(action));
        browser.until(&format!("{acts}.startsWith('{question}')"), SOON);
        assert!(directory.join("hello@2.wasm").exists(), "nothing happens before the response");
        browser.eval(&click(&format!("{action} hello@2")));
        browser.until(&format!("document.querySelector('dialog .said').textContent.startsWith('{said}')"), SOON);
        browser.until(&format!("!{}", row("hello@2")), SOON);
        let changed =
            format!("document.querySelector('#changed').textContent.includes('hello@2 {logged} by an operator')");
        browser.until(&changed, SOON);
        assert!(!directory.join("hello@2.wasm").exists() && !directory.join("hello@2.toml").exists());
        browser.eval("document.querySelector('#close').click()");
        browser.until("location.hash === ''", SOON);
    }
    let component = |path: &Path| std::fs::read(path).unwrap();
    assert!(component(&directory.join("hello.wasm")) == component(&wasm("trap")), "the version is the service");
    put(directory, "hello", "hello.wasm");
}

/// A request takes one row with method, path, status and time; its fields show after a click.
async fn a_request_is_one_row(browser: &mut Browser, host: &Process) {
    let response = get(host.address, "/late?name=Ada").await;
    let id = response.header("x-request-id");
    // The line, by the request id among its fields.
    browser.until(
        &format!(
            "window.line = [...document.querySelectorAll('#lines [data-kind=request]')]
                .find(line => line.textContent.includes('request_id={id}'))"
        ),
        SOON,
    );
    let shown = browser.eval("line.querySelector('summary').lastChild.textContent");
    let shown = shown.as_str().unwrap();
    assert!(shown.starts_with("GET /late?name=Ada 200 in ") && shown.ends_with(" ms"), "{shown}");
    let rows =
        "line.getBoundingClientRect().height / line.querySelector('summary span').getBoundingClientRect().height";
    assert_eq!(browser.eval(&format!("Math.round({rows})")), 1, "it takes one row");
    let fields = "line.querySelector('.fields').checkVisibility()";
    assert_eq!(browser.eval(fields), false);
    browser.eval("line.querySelector('summary').click()");
    browser.until(fields, SOON);
    for field in ["client=127.0.0.1", "sent=", "guest_ms="] {
        assert_eq!(
            browser.eval(&format!("line.querySelector('.fields').textContent.includes('{field}')")),
            true,
            "{field}"
        );
    }
}

/// Routes that a browser can open are links to the listener of the services.
fn routes_are_links(browser: &mut Browser, host: &Process) {
    let links = |name: &str| format!("[...{}.querySelectorAll('small a')].map(link => link.href).join()", row(name));
    let at = format!("http://{}", host.address);
    browser.until(&format!("{} === '{at}/logger'", links("logger")), SOON);
    browser.until(&format!("{} === '{at}/hi'", links("routed")), SOON);
    let text = browser.eval(&format!("{}.querySelector('small').textContent", row("routed")));
    assert_eq!(text, "/hi · /hi/{name} · POST /post");
    browser.eval(&format!("{}.querySelector('a').click()", row("logger")));
    let hosted = format!("http://logger.localhost:{}/", host.address.port());
    let links = "[...document.querySelectorAll('#about a')].map(link => link.href).join()";
    browser.until(&format!("{links} === '{at}/logger,{hosted}'"), SOON);
    browser.eval("document.querySelector('#close').click()");
    browser.until("location.hash === ''", SOON);
}

/// With the longest name and the longest lines visible, and the details open over them.
fn it_fits_a_phone_and_both_schemes(browser: &mut Browser) {
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true });
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    for close in ["0", "document.querySelector('#close').click()"] {
        browser.eval(close);
        browser.until("innerWidth === 360 && document.documentElement.scrollWidth <= 360", SOON);
        browser.until("document.querySelector('dialog').scrollWidth <= 360", SOON);
    }
    browser.call("Emulation.clearDeviceMetricsOverride", json!({}));
    for (scheme, dark) in [("light", false), ("dark", true)] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.call("Emulation.setEmulatedMedia", features);
        // Colour channels up to 255, of the text and of its background.
        let light = "(color => color.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3)";
        for (element, property, bright) in [
            ("body", "backgroundColor", !dark),
            (".box", "backgroundColor", !dark),
            ("body", "color", dark),
            ("tbody td span", "color", dark),
            ("#lines summary > :nth-child(4)", "color", dark),
        ] {
            let style = format!("getComputedStyle(document.querySelector('{element}')).{property}");
            let light = browser.eval(&format!("{light}({style})")).as_f64().unwrap();
            assert!(if bright { light > 140.0 } else { light < 110.0 }, "{scheme}: {property} of {element} is {light}");
        }
        let taken = browser.call("Page.captureScreenshot", json!({}));
        assert!(taken["data"].as_str().unwrap().len() > 20_000, "{scheme}: nothing to see");
    }
    browser.call("Emulation.setEmulatedMedia", json!({ "features": [] }));
}

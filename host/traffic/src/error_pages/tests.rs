use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;
use crate::live_files::{POLL, SETTLE};
use lodge_base::config;

fn manifest(text: &str) -> Manifest {
    let limits = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("users", text, &limits, 1 << 30).unwrap()
}

fn shown(pages: &PageSet, status: u16) -> Option<String> {
    let status = StatusCode::from_u16(status).unwrap();
    let page = pages.find(status)?.load().render(status, "id-1");
    Some(String::from_utf8(page.to_vec()).unwrap())
}

#[test]
fn placeholders_are_replaced_and_escaped() {
    for (text, expected) in [
        ("<p>plain</p>", "<p>plain</p>"),
        ("{status}", "503"),
        (
            "<p title=\"{request-id}\">{status} {status}</p>é{request-id}",
            "<p title=\"a&lt;b&gt;&amp;&quot;&#39;é\">503 503</p>éa&lt;b&gt;&amp;&quot;&#39;é",
        ),
        ("a{color:red} {Status} {{status}} {request_id}", "a{color:red} {Status} {503} {request_id}"),
    ] {
        let page = ErrorPage::read(text).unwrap().render(StatusCode::SERVICE_UNAVAILABLE, "a<b>&\"'é");
        assert_eq!(page, expected.as_bytes(), "{text}");
    }
    for empty in ["", " \n\t"] {
        assert_eq!(ErrorPage::read(empty).unwrap_err(), "it is empty");
    }
    assert!(ErrorPage::read(&"{status}".repeat(16)).is_ok());
    assert_eq!(ErrorPage::read(&"{status}".repeat(17)).unwrap_err(), "17 placeholders are more than 16");
}

/// A status has its own page before that of its class, and a route its own pages before those of its service.
#[tokio::test]
async fn the_nearest_page_is_found() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("errors")).unwrap();
    for name in ["errors/404.html", "4.html", "5.html", "slow.html"] {
        fs::write(directory.path().join(name), format!("{name} {{status}}")).unwrap();
    }
    let text = "routes = ['/a', { path = '/b', errors = false }, { path = '/c', errors.pages = { 429 = 'slow.html' } }]\n\
                errors.pages = { 404 = 'errors/404.html', 4xx = '4.html', 503 = '5.html' }";
    let (sources, manifest) = (PageSources::default(), manifest(text));
    let pages = sources.open_service(&manifest, "users", directory.path()).await.unwrap().unwrap();
    let of = |route: usize, status| pages.of_route(route).and_then(|pages| shown(pages, status));
    for (route, status, expected) in [
        (0, 404, Some("errors/404.html 404")),
        (0, 405, Some("4.html 405")),
        (0, 503, Some("5.html 503")),
        (0, 502, None),
        (1, 404, None),
        (2, 404, None),
        (2, 429, Some("slow.html 429")),
        // The host of the service.
        (usize::MAX, 404, Some("errors/404.html 404")),
    ] {
        assert_eq!(of(route, status).as_deref(), expected, "{route} {status}");
    }
    assert!(pages.of_route(1).is_some_and(|pages| pages.is_empty()), "not those of the host");
    assert!(Arc::ptr_eq(pages.of_route(0).unwrap(), pages.of_route(usize::MAX).unwrap()));
    assert_eq!(sources.files.in_use(), 4);
    assert_eq!((sources.used_beside("users").len(), sources.used_beside("others").len()), (0, 4));
    let others = sources.open_service(&manifest, "others", directory.path()).await.unwrap();
    assert_eq!(sources.used_beside("users").len(), 4);
    drop(others);
    assert_eq!(sources.used_beside("users").len(), 0);
    drop(pages);
    assert_eq!(sources.files.in_use(), 0);
}

/// No link leads out of the directory, and what is too large, no text or no file is no page.
#[tokio::test]
async fn files_are_below_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let guests = directory.path().join("guests");
    fs::create_dir_all(guests.join("..data")).unwrap();
    fs::write(directory.path().join("secret.html"), "secret").unwrap();
    fs::write(guests.join("..data/good.html"), "good").unwrap();
    fs::write(guests.join("large.html"), vec![b'a'; (64 << 10) + 1]).unwrap();
    fs::write(guests.join("binary.html"), b"<p>\xff</p>").unwrap();
    fs::write(guests.join("empty.html"), "").unwrap();
    fs::create_dir(guests.join("directory.html")).unwrap();
    symlink("..data/good.html", guests.join("good.html")).unwrap();
    symlink("../secret.html", guests.join("relative.html")).unwrap();
    symlink(directory.path().join("secret.html"), guests.join("absolute.html")).unwrap();
    symlink("..", guests.join("up")).unwrap();
    for name in ["vol", ".git", "..2026_11_30"] {
        fs::create_dir(guests.join(name)).unwrap();
        fs::write(guests.join(name).join("a.html"), name).unwrap();
        fs::write(guests.join(name).join(".b.html"), name).unwrap();
    }
    fs::write(guests.join("other.env"), "secret").unwrap();
    symlink("../other.env", guests.join("vol/404.html")).unwrap();
    symlink("../.git", guests.join("vol/git")).unwrap();
    symlink("../..2026_11_30/.b.html", guests.join("vol/hidden.html")).unwrap();
    symlink("..2026_11_30", guests.join("..now")).unwrap();
    symlink("..now/a.html", guests.join("mounted.html")).unwrap();
    let sources = PageSources::default();
    let open = async |file: &str| {
        let manifest = manifest(&format!("errors.pages = {{ 404 = '{file}' }}"));
        sources
            .open_service(&manifest, "users", &guests)
            .await
            .map(|pages| shown(pages.unwrap().of_route(0).unwrap(), 404))
    };
    // As a ConfigMap of Kubernetes is mounted.
    assert_eq!(open("good.html").await.unwrap().as_deref(), Some("good"));
    assert_eq!(open("mounted.html").await.unwrap().as_deref(), Some("..2026_11_30"));
    assert_eq!(open("vol/a.html").await.unwrap().as_deref(), Some("vol"));
    for (file, expected) in [
        ("relative.html", "it cannot be read"),
        ("absolute.html", "it cannot be read"),
        ("up/secret.html", "it cannot be read"),
        ("none.html", "it cannot be read"),
        ("directory.html", "it is not a regular file"),
        ("large.html", "over 64.0 KiB"),
        ("binary.html", "line 1 is not UTF-8"),
        ("empty.html", "it is empty"),
        ("vol/404.html", "it leads to a file whose name does not end in .html"),
        ("vol/git/a.html", "it leads to a file or a directory whose name begins with `.`"),
        ("vol/hidden.html", "it leads to a file or a directory whose name begins with `.`"),
    ] {
        let problem = open(file).await.unwrap_err();
        assert!(problem.starts_with(&format!("errors.pages: {file}: ")) && problem.contains(expected), "{problem}");
    }
}

/// A page is read again when it changes. What is no page, or leads out of the directory by now, changes nothing.
#[tokio::test]
async fn pages_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let guests = directory.path().join("guests");
    fs::create_dir(&guests).unwrap();
    fs::write(directory.path().join("secret.html"), "secret").unwrap();
    let page = guests.join("404.html");
    fs::write(&page, "first").unwrap();
    let (sources, manifest) = (PageSources::default(), manifest("errors.pages = { 404 = '404.html' }"));
    let pages = sources.open_service(&manifest, "users", &guests).await.unwrap().unwrap();
    let now = || shown(pages.of_route(0).unwrap(), 404).unwrap();
    let changes: [(&str, &dyn Fn()); 3] = [
        ("empty", &|| fs::write(&page, "").unwrap()),
        ("a link that leads out", &|| {
            fs::remove_file(&page).unwrap();
            symlink("../secret.html", &page).unwrap();
        }),
        ("gone", &|| fs::remove_file(&page).unwrap()),
    ];
    for (what, change) in changes {
        change();
        tokio::time::sleep(POLL + SETTLE * 4).await;
        assert_eq!(now(), "first", "{what}");
    }
    fs::write(&page, "second").unwrap();
    let changed = async {
        while now() != "second" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), changed).await.unwrap();
}

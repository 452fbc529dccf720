//! `[errors]`: the pages that browsers get where the host responds in place of a service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::Manifest;
use crate::files::MAX_PATH;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written};
use lodge_base::config::errors::{ErrorStatuses, MOST_PAGES, PageFiles};

/// The most files of a service with its routes.
const MOST_FILES: usize = 100;

const FORM: &str = "write a section [errors], or false";

/// `[errors]`.
pub(crate) const SECTION: Section = Section {
    name: "errors",
    page: "errors",
    schema: || {
        let pages = json!({
            "type": "object",
            "propertyNames": { "pattern": "^([45][0-9]{2}|[45]xx)$" },
            "minProperties": 1,
            "maxProperties": MOST_PAGES,
            "additionalProperties": { "type": "string", "pattern": "\\.html?$" },
        });
        let pages = schema::described(
            pages,
            "the HTML files that browsers get, by status: `404`, or `5xx` for all that begin so",
        );
        let table = schema::table(&["pages"], json!({ "pages": pages }));
        json!({ "anyOf": [{ "type": "boolean", "enum": [false] }, table] })
    },
    owner: Owner::Route(|settings, written, problems| settings.errors = read(written, problems).map(Arc::new)),
    view: Some(View { label: "errors", value: view, text: words }),
    ..Section::DEFAULT
};

/// Gives every route without pages of its own those of its service.
pub(crate) fn spread(service: Option<Arc<PageFiles>>, manifest: &mut Manifest, problems: &mut Problems) {
    manifest.errors = service;
    for route in &mut manifest.routes {
        route.errors = route.errors.take().or_else(|| manifest.errors.clone());
    }
    let all = manifest.routes.iter().filter_map(|route| route.errors.as_ref()).chain(&manifest.errors);
    manifest.pages = all.flat_map(|pages| pages.values().cloned()).collect();
    let files = manifest.pages.len();
    if files > MOST_FILES {
        problems.push(format!("errors.pages: {files} files of the service and its routes are more than {MOST_FILES}"));
    }
}

/// Reads the pages. None at all are those of who gets no pages, also not those of the host.
fn read(written: &Written<'_>, problems: &mut Problems) -> Option<PageFiles> {
    if written.table().is_none() {
        let on = problems.take(written.boolean().map_err(|_| written.error(FORM)))?;
        if on {
            problems.push(written.error(FORM));
        }
        return Some(PageFiles::new());
    }
    let is_page = |key: &Written<'_>| ErrorStatuses::read(key.inside(written)).is_some();
    if let Some(page) = written.table().into_iter().flatten().find(is_page) {
        let status = page.inside(written);
        problems.push(page.at(format!("`{status}` is a key of [errors.pages]; write errors.pages.{status}")));
        return None;
    }
    let keys = written.section(&["pages"], problems)?;
    let Some(pages) = keys.first() else {
        problems.push(written.error("it lacks `pages`, such as { 404 = \"404.html\", 5xx = \"down.html\" }"));
        return None;
    };
    let Some(keys) = pages.table().filter(|keys| !keys.is_empty()) else {
        problems.push(
            pages.error("write a table of statuses and HTML files, like { 404 = \"404.html\", 5xx = \"down.html\" }"),
        );
        return None;
    };
    if keys.len() > MOST_PAGES {
        problems.push(pages.error(format!("{} pages are more than {MOST_PAGES}", keys.len())));
    }
    let page = |key: &Written<'_>| {
        let text = key.inside(pages);
        let statuses = ErrorStatuses::read(text);
        let statuses =
            statuses.ok_or_else(|| key.error("no error has this status; write one from 400 to 599, `4xx` or `5xx`"))?;
        Ok((statuses, file(key)?))
    };
    Some(keys.iter().filter_map(|key| problems.take(page(key))).collect())
}

/// Reads the path of a page. Everybody can read what is in it, so it is a file that is meant for that.
fn file(key: &Written<'_>) -> Result<PathBuf, String> {
    const FORM: &str = "write the path of an HTML file below the directory of the manifest, like \"errors/404.html\"";
    let text = key.string(FORM)?;
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    let html = Path::new(text).extension().is_some_and(|ending| ending == "html" || ending == "htm");
    let sound = text.len() <= MAX_PATH && text.split('/').all(plain) && html;
    if sound { Ok(text.into()) } else { Err(key.error(FORM)) }
}

/// Returns the pages of the service, and those of routes with others.
fn view(manifest: &Manifest) -> Option<Value> {
    let shown = |pages: &PageFiles| -> Map<_, _> {
        pages.iter().map(|(statuses, file)| (statuses.to_string(), file.display().to_string().into())).collect()
    };
    let or_nothing = |all: Map<_, _>| if all.is_empty() { "nothing".into() } else { all.into() };
    let mut all = manifest.errors.as_deref().map_or_else(Map::new, shown);
    let others = manifest.routes.iter().filter(|route| route.errors != manifest.errors);
    all.extend(others.filter_map(|route| Some((route.to_string(), or_nothing(shown(route.errors.as_deref()?))))));
    (manifest.errors.is_some() || !all.is_empty()).then(|| or_nothing(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn pages_are_of_services_and_routes() {
        let text = "routes = ['/a', { path = '/b', errors = false }, { path = '/c', errors.pages = { 429 = 'slow.htm' } }]\n\
                    [errors.pages]\n404 = 'errors/404.html'\n5xx = 'down.html'";
        let manifest = manifest(text).unwrap();
        let service: PageFiles =
            [(ErrorStatuses::One(404), "errors/404.html".into()), (ErrorStatuses::Class(5), "down.html".into())].into();
        assert_eq!(manifest.errors.as_deref(), Some(&service));
        let routes: Vec<_> = manifest.routes.iter().map(|route| route.errors.as_deref().cloned().unwrap()).collect();
        assert_eq!(routes, [service, PageFiles::new(), [(ErrorStatuses::One(429), "slow.htm".into())].into()]);
        assert_eq!(
            view(&manifest).unwrap(),
            json!({ "404": "errors/404.html", "5xx": "down.html", "/b": "nothing", "/c": { "429": "slow.htm" } })
        );
    }

    #[test]
    fn none_and_the_hosts_are_not_the_same() {
        let none = manifest("errors = false").unwrap();
        assert_eq!((none.errors.as_deref(), view(&none)), (Some(&PageFiles::new()), Some("nothing".into())));
        assert_eq!(none.routes[0].errors, none.errors);
        let hosts = manifest("").unwrap();
        assert_eq!((hosts.errors.as_deref(), view(&hosts)), (None, None));
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, expected) in [
            ("errors = true", "line 1: errors: write a section [errors], or false"),
            ("errors = 'a.html'", "errors: write a section [errors], or false"),
            ("[errors]", "errors: it lacks `pages`"),
            ("errors.pages = {}", "errors.pages: write a table of statuses and HTML files"),
            ("errors.pages = 'a.html'", "errors.pages: write a table of statuses and HTML files"),
            ("[errors]\n404 = 'a.html'", "line 2: `404` is a key of [errors.pages]; write errors.pages.404"),
            ("[errors.pages]\n200 = 'a.html'", "line 2: errors.pages.200: no error has this status"),
            ("[errors.pages]\n6xx = 'a.html'", "errors.pages.6xx: no error has this status"),
            ("[errors.pages]\n404 = 7", "line 2: errors.pages.404: write the path of an HTML file"),
        ] {
            let problem = manifest(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let many: String = (400..=432).map(|status| format!("{status} = 'a.html'\n")).collect();
        assert!(manifest(&format!("[errors.pages]\n{many}")).unwrap_err().contains("33 pages are more than 32"));
        let route = |number| format!("[[routes]]\npath = '/{number}'\nerrors.pages = {{ 404 = '{number}.html' }}\n");
        let many = |count| (0..count).map(route).collect::<String>();
        assert!(manifest(&many(100)).is_ok());
        assert!(manifest(&many(101)).unwrap_err().contains("errors.pages: 101 files of the service"));
    }

    /// A page is public: it is no file of another kind, and none elsewhere.
    #[test]
    fn paths_lead_nowhere_else() {
        for wrong in [
            "",
            "/etc/page.html",
            "../page.html",
            "a/../page.html",
            "./page.html",
            "a//page.html",
            ".lodge/page.html",
            "a/.hidden.html",
            ".html",
            "users.toml",
            "keys.pem",
            "page.html/",
            "page.HTML.toml",
            "page",
            "a\0.html",
        ] {
            let problem = manifest(&format!("errors.pages = {{ 404 = {} }}", json!(wrong))).unwrap_err();
            assert!(problem.contains("errors.pages.404: write the path of an HTML file"), "{wrong:?}: {problem}");
        }
        assert!(manifest("errors.pages = { 404 = 'a/b c/d.e.html' }").is_ok());
    }
}

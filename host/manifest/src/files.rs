//! `[files]`: a service that is a directory of static files.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, word};

/// The most bytes of a path in the directory: the limit of Linux.
pub const MAX_PATH: usize = 4_095;

/// The keys of the section.
const KEYS: &[Key<FilesSpec>] = &[
    Key {
        name: "root",
        default: "",
        help: "the directory; a relative path begins at the directory of the manifest",
        set: |files, text| {
            let sound = !text.is_empty() && text.len() <= MAX_PATH && !text.contains('\0');
            files.root = sound.then(|| PathBuf::from(text)).ok_or("write the path of a directory, like \"public\"")?;
            Ok(())
        },
    },
    Key {
        name: "index",
        default: "index.html",
        help: "the file in a directory that is sent for the directory",
        set: |files, text| {
            files.index = name(text, 1)?;
            Ok(())
        },
    },
    Key {
        name: "fallback",
        default: "",
        help: "the file that is sent, with 200, where there is none and the last part of the path has no dot",
        set: |files, text| {
            files.fallback = Some(name(text, usize::MAX)?);
            Ok(())
        },
    },
    Key {
        name: "not_found",
        default: "",
        help: "the file that is sent with 404",
        set: |files, text| {
            files.not_found = Some(name(text, usize::MAX)?);
            Ok(())
        },
    },
    Key {
        name: "cache_control",
        default: "no-cache",
        help: "the `Cache-Control` of files: by default, clients ask each time whether a file has changed",
        set: |files, text| {
            let value = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty());
            files.cache_control = value.ok_or_else(|| format!("`{}` is not a header value", text.escape_debug()))?;
            Ok(())
        },
    },
    Key {
        name: "precompressed",
        default: "true",
        help: "whether `NAME.br`, `NAME.zst` or `NAME.gz` beside `NAME` is sent to clients that accept it",
        set: |files, text| word(text, &[("true", true), ("false", false)]).map(|value| files.precompressed = value),
    },
];

/// `[files]`.
pub(crate) const SECTION: Section = Section {
    name: "files",
    page: "front",
    schema: || schema::settings(KEYS, &FilesSpec::blank(), &["root"]),
    owner: Owner::All(|manifest, written, problems| manifest.files = read(written, problems).map(Arc::new)),
    view: Some(View {
        label: "files",
        value: |manifest| manifest.files.as_ref().map(|files| files.shown()),
        text: words,
    }),
    ..Section::DEFAULT
};

/// A directory of static files. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSpec {
    /// The directory. A relative path begins at the directory of the manifest.
    pub root: PathBuf,
    /// The name of the file that is sent for a directory.
    pub index: String,
    /// The path of the file that is sent for paths of an application in the browser.
    pub fallback: Option<String>,
    /// The path of the file that is sent with 404.
    pub not_found: Option<String>,
    /// The value of `Cache-Control`.
    pub cache_control: HeaderValue,
    /// Whether compressed files beside a file are sent in place of it.
    pub precompressed: bool,
}

impl FilesSpec {
    fn blank() -> Self {
        Self {
            root: PathBuf::new(),
            index: String::new(),
            fallback: None,
            not_found: None,
            cache_control: HeaderValue::from_static(""),
            precompressed: false,
        }
    }

    fn shown(&self) -> Value {
        let texts = [
            ("index", Some(&self.index)),
            ("fallback", self.fallback.as_ref()),
            ("not_found", self.not_found.as_ref()),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
        let cache_control = String::from_utf8_lossy(self.cache_control.as_bytes());
        let others = [
            ("root", json!(self.root.display().to_string())),
            ("cache_control", json!(cache_control)),
            ("precompressed", json!(self.precompressed)),
        ];
        Value::Object(others.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(texts).collect())
    }
}

/// Reads the path of a file in the directory, of at most `parts` parts.
fn name(text: &str, parts: usize) -> Result<String, String> {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\0', '\\']);
    let sound = text.len() <= MAX_PATH && text.split('/').all(part) && text.split('/').count() <= parts;
    let form =
        if parts == 1 { "the name of a file" } else { "the path of a file in the directory, without `/` before it" };
    sound.then(|| text.to_owned()).ok_or_else(|| format!("`{}` is not {form}", text.escape_debug()))
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<FilesSpec> {
    let mut files = with_defaults(KEYS, FilesSpec::blank());
    let valid = written.settings(KEYS, &mut files, problems);
    problems.take(written.require("root", KEYS))?;
    valid.then_some(files)
}

/// Completes the manifest of a directory. Without `routes`, the path of a file is what follows the name of the service.
pub(crate) fn settle(keys: &[Written<'_>], manifest: &mut Manifest) {
    if manifest.files.is_some() && manifest.share.is_none() && !keys.iter().any(|key| key.name == "routes") {
        manifest.routes.iter_mut().for_each(|route| route.strip_prefix = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let files = |text: &str| (*manifest(text).unwrap().files.unwrap()).clone();
        let least = files("files.root = 'public'");
        let plain = (least.index.as_str(), &least.fallback, &least.not_found, least.precompressed);
        assert_eq!(plain, ("index.html", &None, &None, true));
        assert_eq!((least.root, least.cache_control), ("public".into(), HeaderValue::from_static("no-cache")));
        let all = files(
            "[files]\nroot = '/srv/a'\nindex = 'main.htm'\nfallback = 'app/index.html'\nnot_found = '404.html'\n\
             cache_control = 'public, max-age=60'\nprecompressed = false",
        );
        assert_eq!((all.fallback.as_deref(), all.not_found.as_deref()), (Some("app/index.html"), Some("404.html")));
        assert_eq!((all.index.as_str(), all.precompressed), ("main.htm", false));
        assert_eq!(all.cache_control, "public, max-age=60");
        assert_eq!(
            all.shown(),
            json!({
                "root": "/srv/a",
                "index": "main.htm",
                "fallback": "app/index.html",
                "not_found": "404.html",
                "cache_control": "public, max-age=60",
                "precompressed": false,
            })
        );
    }

    /// Of a service without `routes`, the name is not a part of the paths of files.
    #[test]
    fn the_name_of_the_service_is_not_a_directory() {
        let stripped = |text: &str| -> Vec<_> {
            manifest(text).unwrap().routes.iter().map(|route| (route.to_string(), route.strip_prefix)).collect()
        };
        assert_eq!(stripped("files.root = 'public'"), [("/users".to_owned(), true)]);
        assert_eq!(stripped("routes = ['/users']\nfiles.root = 'public'"), [("/users".to_owned(), false)]);
        assert_eq!(stripped(""), [("/users".to_owned(), false)]);
    }

    #[test]
    fn problems_name_the_key() {
        let check = |text: &str, expected: &str| {
            let problem = manifest(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        check("files = 'public'", "write a section [files]");
        check("[files]\nindex = 'a.html'", "files.root is missing: the directory");
        check("files.root = ''", "line 1: files.root: write the path of a directory");
        for wrong in ["../a", "a/b", ".a", "", "..", "a\\\\b"] {
            check(&format!("[files]\nroot = 'a'\nindex = \"{wrong}\""), "line 3: files.index: ");
        }
        for wrong in ["/a.html", "a/../b", "a//b", "a/", ".a/b"] {
            check(&format!("[files]\nroot = 'a'\nfallback = '{wrong}'"), "is not the path of a file in the directory");
            check(&format!("[files]\nroot = 'a'\nnot_found = '{wrong}'"), "is not the path of a file in the directory");
        }
        check("[files]\nroot = 'a'\ncache_control = \"a\\nb\"", "is not a header value");
        check("[files]\nroot = 'a'\nindexes = 'x'", "did you mean `files.index`?");
        check("[files]\nroot = 'a'\n[upstream]\nreplicas = ['http://a']", "[files] and [upstream]");
        check("component = 'a.wasm'\nfiles.root = 'a'", "component: has no effect, because [files] says");
        check("[env]\nA = 'b'\n[files]\nroot = 'a'", "env: applies to components only, and [files] says");
        check("limits.memory = '1MiB'\nfiles.root = 'a'", "limits.memory: applies to components only");
        check("consume.subject = 'a'\nfiles.root = 'a'", "consume: a directory handles no messages");
    }

    /// A version may be a directory, or a component beside one.
    #[test]
    fn versions_are_one_or_the_other() {
        let service = manifest("files.root = 'public'").unwrap();
        let component = service.version("calls = ['a']", 1 << 30).unwrap();
        assert!(component.files.is_none() && component.has_component());
        let next = service.version("percent = 10\nfiles.root = 'next'", 1 << 30).unwrap();
        assert_eq!(next.files.as_ref().unwrap().root, PathBuf::from("next"));
        assert!(!next.has_component());
        let far = service.version("upstream.replicas = ['http://a']", 1 << 30).unwrap();
        assert!(far.files.is_none() && far.upstream.is_some());
    }
}

//! `middleware`: components in front of the component of a service.

use std::collections::BTreeSet;

use serde_json::json;

use crate::files::MAX_PATH;
use crate::schema;
use crate::section::{Owner, Section, Subject, View, words};
use crate::written::{Problems, Written};

/// The most components in front of another one.
const MOST: usize = 8;

/// `middleware`.
pub(crate) const SECTION: Section = Section {
    name: "middleware",
    page: "middleware",
    schema: || {
        let list = schema::texts(json!({ "type": "string", "pattern": "\\.wasm$" }));
        schema::described(
            list,
            "the files of components that requests pass before they reach the service, in this order; one or a list",
        )
    },
    owner: Owner::All(|manifest, written, problems| {
        if let Some(files) = read(written, problems) {
            manifest.middleware = files;
        }
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "middleware",
        value: |manifest| (!manifest.middleware.is_empty()).then(|| json!(manifest.middleware)),
        text: words,
    }),
    ..Section::DEFAULT
};

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    const FORM: &str = "[\"middleware/cors.wasm\"]";
    let items = problems.take(written.items(FORM))?;
    if items.len() > MOST {
        problems.push(written.error(format!("{} components are more than {MOST}", items.len())));
    }
    let files: Vec<_> = items.iter().filter_map(|item| problems.take(file(item))).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = files.iter().find(|file| !seen.insert(*file)) {
        problems.push(written.error(format!("`{twice}` is there twice; remove one")));
    }
    Some(files)
}

/// Reads the path of a component below the directory of the manifest.
fn file(item: &Written<'_>) -> Result<String, String> {
    const FORM: &str =
        "write the path of a component below the directory of the manifest, like \"middleware/cors.wasm\"";
    let text = item.string(FORM)?;
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    let sound = text.len() <= MAX_PATH && text.split('/').all(plain) && text.ends_with(".wasm");
    if sound { Ok(text.to_owned()) } else { Err(item.error(format!("`{}` is none; {FORM}", text.escape_debug()))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn a_version_has_that_of_its_service_unless_it_has_its_own() {
        let service = manifest("middleware = ['middleware/a.wasm', 'b.wasm']").unwrap();
        assert_eq!(service.middleware, ["middleware/a.wasm", "b.wasm"]);
        assert_eq!(manifest("middleware = 'a.wasm'").unwrap().middleware, ["a.wasm"]);
        let version = |text: &str| service.version(text, 1 << 30).unwrap().middleware;
        assert_eq!(version(""), service.middleware);
        assert_eq!(version("middleware = 'c.wasm'"), ["c.wasm"]);
        assert!(version("middleware = []").is_empty());
    }

    #[test]
    fn paths_lead_nowhere_else() {
        for wrong in
            ["", "/a.wasm", "../a.wasm", "a/../b.wasm", "./a.wasm", "a//b.wasm", ".lodge/a.wasm", "a.toml", "a\0.wasm"]
        {
            let problem = manifest(&format!("middleware = [{}]", json!(wrong))).unwrap_err();
            let expected =
                format!("middleware: `{}` is none; write the path of a component below", wrong.escape_debug());
            assert!(problem.contains(&expected), "{wrong:?}: {problem}");
        }
        let many: Vec<_> = (0..9).map(|number| format!("{number}.wasm")).collect();
        assert!(manifest(&format!("middleware = {many:?}")).unwrap_err().contains("9 components are more than 8"));
        let twice = manifest("middleware = ['a.wasm', 'b.wasm', 'a.wasm']").unwrap_err();
        assert!(twice.contains("`a.wasm` is there twice"), "{twice}");
        let elsewhere = manifest("middleware = 'a.wasm'\nupstream.replicas = ['http://a']").unwrap_err();
        assert!(elsewhere.contains("middleware: applies to components only"), "{elsewhere}");
    }
}

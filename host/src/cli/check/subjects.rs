//! Subjects of messages that lead nowhere, as far as the manifests of a directory say.

use std::collections::BTreeSet;

use lodge_manifest::consume::overlap;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::GuestSpec;

/// The most lines; what is left is a number.
const MOST_HINTS: usize = 20;

/// Returns a line for each subject that a service may publish to and none consumes, and for each that one consumes and none may publish
/// to. Both may be on another host.
pub(super) fn hints<'a>(specs: impl Iterator<Item = &'a GuestSpec> + Clone) -> Vec<String> {
    // Versions have the subjects of their service.
    let services = specs.clone().filter(|spec| !spec.name.contains('@'));
    let consumers = services.clone().filter_map(|spec| Some((spec, spec.manifest.consume.as_ref()?)));
    let consumed: BTreeSet<_> = consumers.clone().flat_map(|(_, consume)| &consume.subjects).collect();
    let dead = consumers.clone().filter_map(|(_, consume)| consume.dead_letter.as_ref());
    let published: BTreeSet<_> = specs.flat_map(|spec| &spec.manifest.publish).chain(dead).collect();
    let leads = |subject: &String, to: &BTreeSet<&String>| to.iter().any(|other| overlap(subject, other));
    let mut hints = BTreeSet::new();
    let mut tell = |spec: &GuestSpec, key: &str, subject: &str, why: &str| {
        let manifest = file_name(&spec.path.with_extension("toml"));
        hints.insert(format!("{manifest}: {key}: {subject}: {why}; one of another host may, if they share state"));
    };
    for spec in services {
        for subject in spec.manifest.publish.iter().filter(|subject| !leads(subject, &consumed)) {
            let why = "no service of this directory consumes such messages, and without a consumer they are refused";
            tell(spec, "publish", subject, why);
        }
    }
    for (spec, consume) in consumers {
        for subject in consume.subjects.iter().filter(|subject| !leads(subject, &published)) {
            tell(spec, "consume.subject", subject, "no service of this directory may publish such messages");
        }
    }
    let mut hints: Vec<_> = hints.into_iter().collect();
    let left = hints.len().saturating_sub(MOST_HINTS);
    hints.truncate(MOST_HINTS);
    hints.extend((left > 0).then(|| format!("{left} more subjects lead nowhere in this directory")));
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;
    use lodge_manifest::Manifest;
    use lodge_manifest::digest::Digest;

    fn told(manifests: &[(&str, &str)]) -> Vec<String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let spec = |(name, text): &(&str, &str)| GuestSpec {
            name: (*name).to_owned(),
            path: format!("/guests/{name}.wasm").into(),
            content: None,
            digest: Digest::of(b""),
            size: 0,
            middleware: Vec::new(),
            manifest: Manifest::read(name, text, &limits, 1 << 30).unwrap(),
        };
        let specs: Vec<_> = manifests.iter().map(spec).collect();
        hints(specs.iter())
    }

    #[test]
    fn subjects_that_lead_nowhere_are_told() {
        let consume = "[consume]\nsubject = ['orders.*', 'bills.>']\ndead_letter = 'dead.mail'";
        assert_eq!(told(&[("shop", "publish = ['orders.made', 'bills.*']"), ("mail", consume)]), [""; 0]);
        let lines = told(&[("shop", "publish = ['orders', 'bills.paid']"), ("mail", consume)]);
        assert!(lines[0].starts_with("mail.toml: consume.subject: orders.*: no service of this"), "{lines:?}");
        assert!(lines[1].starts_with("shop.toml: publish: orders: no service of this directory consumes"), "{lines:?}");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(told(&[("shop", "publish = 'a'"), ("shop@2", "publish = 'a'")]).len(), 1);
        // Dead messages come from the host.
        let grave = ("grave", "[consume]\nsubject = 'dead.*'");
        assert_eq!(told(&[grave, ("mail", consume), ("shop", "publish = '>'")]), [""; 0]);
        let many: Vec<_> = (0..16).map(|number| format!("'s{number}'")).collect();
        let publish = format!("publish = [{}]", many.join(", "));
        let lines = told(&[("a", &publish), ("b", &publish)]);
        assert!(lines.len() == 21 && lines[20].starts_with("12 more subjects lead"), "{lines:?}");
    }
}

//! `lodge check`: reports what `serve` would do with every file.

mod grants;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::out::{self, CliError, clean};
use super::units::{UNKNOWN_CALL, addresses, count};
use crate::admin::contract::{FileReport, ServiceInfo, SourceStatus};
use crate::admin::report;
use crate::guests::deployer::Deployer;
use crate::guests::publisher::Publisher;
use crate::guests::scan::{FileState, Scan, Scanner};
use crate::registry::follow::Pulls;
use lodge_base::config::Config;
use lodge_manifest::refusal::file_name;
use lodge_manifest::section::{SECTIONS, View};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::code_cache;

/// Checks everything and prints the report or, with `only_grants`, what manifests grant. Fails if a file is refused.
pub(super) fn run(config: Config, json: bool, only_grants: bool) -> Result<(), CliError> {
    if only_grants {
        return grants::run(&config, json);
    }
    let without_settings = config.program.file.is_none();
    let reports = super::block_on(check(Arc::new(config))).and_then(|reports| reports).map_err(CliError::Problem)?;
    if json {
        out::json(&serde_json::to_string_pretty(&reports).unwrap_or_default())?;
    } else {
        out::print(&reports.iter().map(format_report).collect::<String>())?;
    }
    let refused = reports.iter().any(|report| report.refused.is_some());
    if refused && without_settings {
        super::notice(
            "no lodge.toml was read: a host with other settings may refuse other files; --config names that of the host, and files \
             that manifests name have to be here",
        );
    }
    if refused { Err(CliError::Reported) } else { Ok(()) }
}

/// Fills the compile cache ahead of a restart. With `seal`, copies its entries into a directory for the `cache.sealed`
/// setting of an image. Fails if a file is refused or an entry cannot be stored.
pub(super) fn compile(config: Config, seal: Option<&Path>) -> Result<(), CliError> {
    let config = Arc::new(config);
    let own = code_cache::Directory::open(&config.cache)
        .map_err(|problem| CliError::Problem(format!("cannot fill the compile cache: {problem}")))?;
    let reports = super::block_on(check(config)).and_then(|reports| reports).map_err(CliError::Problem)?;
    let refused: Vec<_> = reports.iter().filter(|report| report.refused.is_some()).map(format_report).collect();
    out::print(&refused.concat())?;
    if let Some(path) = seal {
        let sealed = code_cache::seal(&own, path).map_err(CliError::Problem)?;
        super::notice(&format!("copied {} to {}", count(sealed as u64, "entry"), path.display()));
    }
    if refused.is_empty() { Ok(()) } else { Err(CliError::Reported) }
}

/// Scans the directory, and pulls the components that its manifests name in registries. Tags are looked at, also those whose
/// component is there.
async fn scan(config: &Arc<Config>) -> std::io::Result<Scan> {
    let pulls = Pulls::of_command(Arc::clone(config));
    let mut scanner = Scanner::new(&config.guests).pulling(Arc::clone(&pulls));
    let first = scanner.scan(config)?;
    if !pulls.is_pulling() {
        return Ok(first);
    }
    super::notice("pulling components from registries");
    let mut pulling = JoinSet::new();
    pulling.spawn(Arc::clone(&pulls).run());
    pulls.looked().await;
    scanner.scan(config)
}

async fn check(config: Arc<Config>) -> Result<Vec<FileReport<ServiceInfo>>, String> {
    let scan = scan(&config).await.map_err(|error| format!("cannot read {}: {error}", config.guests.display()))?;
    for name in &scan.ignored {
        super::notice(&format!("ignored {name}: its extension must be in lower case"));
    }
    let deployer = Arc::new(Deployer::offline(&config)?);
    let (mut backends, mut refusals, mut compiling) = (Vec::new(), Vec::new(), JoinSet::new());
    for found in scan.found.into_values() {
        refusals.extend(found.trouble);
        match found.state {
            FileState::Ready(spec) => {
                absent_files(&spec).iter().for_each(|absent| super::notice(absent));
                let deployer = Arc::clone(&deployer);
                compiling.spawn(async move { deployer.deploy(spec).await });
            }
            FileState::Refused(refusal) | FileState::Orphan(refusal) => refusals.push(refusal),
            FileState::Disabled | FileState::Changing | FileState::Pulling => {}
        }
    }
    let total = compiling.len();
    while let Some(finished) = compiling.join_next().await {
        match finished.map_err(|crash| format!("a compilation panicked: {crash}"))? {
            Ok(backend) => backends.push(backend),
            Err(refusal) => refusals.push(refusal),
        }
        super::notice(&format!("[{}/{total}] compiled", total - compiling.len()));
    }
    let publisher = Publisher::alone(&config);
    publisher.publish(backends, refusals, true);
    let current = publisher.current();
    let mut reports = report::files(&current.snapshot());
    if !config.guests.is_dir() {
        // The services beside a single file are not read.
        reports
            .iter_mut()
            .filter_map(|report| report.service.as_mut())
            .for_each(|service| service.unknown_calls.clear());
    }
    Ok(reports)
}

/// Returns a line for each file that `[files]` names and that does not exist. It may come later, as the host looks for it at each
/// request.
fn absent_files(spec: &GuestSpec) -> Vec<String> {
    let Some(files) = &spec.manifest.files else { return Vec::new() };
    let (root, manifest) = (spec.path.with_file_name("").join(&files.root), file_name(&spec.path));
    let named = [("fallback", &files.fallback), ("not_found", &files.not_found)];
    let named = named.into_iter().filter_map(|(key, name)| Some((key, name.as_ref()?)));
    named
        .filter(|(_, name)| root.is_dir() && !root.join(name).is_file())
        .map(|(key, name)| {
            clean(&format!("{manifest}: files.{key}: there is no file {name} in {}", root.display())).into_owned()
        })
        .collect()
}

fn format_report(report: &FileReport<ServiceInfo>) -> String {
    let (mut lines, file) = (Vec::new(), clean(&report.file));
    if let Some(service) = &report.service {
        let size = bytesize::ByteSize(service.bytes).display().iec();
        let short = service.digest.get(..12).unwrap_or_default();
        lines.push(format!("{file}  {size}  sha256 {short}"));
        lines.push(format!("  answers at  {}", addresses(&service.routes, &service.host)));
        for view in SECTIONS.iter().filter_map(|section| section.view.as_ref().zip(service.sections.get(section.name)))
        {
            let (View { label, text, .. }, value) = view;
            lines.push(format!("  {label:11} {}", clean(&text(value))));
        }
        for name in &service.unknown_calls {
            lines.push(format!("  calls       {}: {UNKNOWN_CALL}", clean(name)));
        }
        let source = |it: &SourceStatus| match &it.fails {
            Some(why) => clean(&format!("{}: {why}", it.source)).into_owned(),
            None => clean(&it.source).into_owned(),
        };
        let replicas: Vec<_> = service.upstream.iter().flat_map(|upstream| &upstream.sources).map(source).collect();
        let lists = [
            ("replicas", &replicas),
            ("exports ", &service.exports),
            ("imports ", &service.imports),
            ("lacks   ", &service.absent_imports),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            lines.push(format!("  {name}    {}", list.join("\n              ")));
        }
    }
    if let Some(refused) = &report.refused {
        lines.push(format!("{file}  REFUSED: {}; {}", clean(&refused.reason), clean(&refused.remedy)));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;
    use lodge_manifest::Manifest;
    use lodge_manifest::digest::Digest;

    #[test]
    fn files_that_do_not_exist_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path().join("site");
        std::fs::create_dir(&site).unwrap();
        std::fs::write(site.join("there.html"), "").unwrap();
        let limits = config::resolve(&[]).unwrap().config.limits;
        let absent = |keys: &str| {
            let manifest = Manifest::read("web", &format!("[files]\nroot = 'site'\n{keys}"), &limits, 1 << 30).unwrap();
            let (name, path) = ("web".to_owned(), directory.path().join("web.toml"));
            absent_files(&GuestSpec { name, path, content: None, digest: Digest::of(b""), size: 0, manifest })
        };
        assert_eq!(absent(""), [""; 0]);
        assert_eq!(absent("fallback = 'there.html'"), [""; 0]);
        let both = absent("fallback = 'a/index.html'\nnot_found = '404.html'");
        assert!(both[0].starts_with("web.toml: files.fallback: there is no file a/index.html in /"), "{both:?}");
        assert!(both[1].starts_with("web.toml: files.not_found: there is no file 404.html in "), "{both:?}");
    }
}

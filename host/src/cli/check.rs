//! `lodge check`: reports what `serve` would do with every file.

mod grants;
mod subjects;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinSet;

use super::out::{self, CliError, clean};
use super::units::{UNKNOWN_CALL, addresses, count};
use crate::admin::contract::{FileReport, PolicyStatus, ServiceInfo, SourceStatus};
use crate::admin::report;
use crate::guests::absent::Absentees;
use crate::guests::deployer::Deployer;
use crate::guests::doubts::doubts;
use crate::guests::ledger::Absent;
use crate::guests::publisher::Publisher;
use crate::guests::scan::{FileState, Scan, Scanner};
use crate::guests::snapshot::Snapshot;
use crate::registry::follow::Pulls;
use lodge_base::config::Config;
use lodge_base::config::limits::Limits;
use lodge_manifest::Manifest;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::section::{SECTIONS, View};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::code_cache;
use lodge_traffic::error_pages::PageSources;

/// Checks everything and prints the report or, with `only_grants`, what manifests grant. Fails if a file is refused.
pub(super) fn run(config: Config, json: bool, only_grants: bool) -> Result<(), CliError> {
    if only_grants {
        return grants::run(&config, json);
    }
    let (without_settings, guests) = (config.program.file.is_none(), config.guests.clone());
    let reports = super::block_on(check(Arc::new(config))).and_then(|reports| reports).map_err(CliError::Problem)?;
    if json {
        out::json(&serde_json::to_string_pretty(&reports).unwrap_or_default())?;
    } else {
        out::print(&reports.iter().map(format_report).collect::<String>())?;
    }
    if reports.is_empty() {
        super::notice(&format!("only settings were checked: {} has no component and no manifest", guests.display()));
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

async fn check(config: Arc<Config>) -> Result<Vec<FileReport<CheckedService>>, String> {
    let scan = scan(&config).await.map_err(|error| format!("cannot read {}: {error}", config.guests.display()))?;
    for name in &scan.ignored {
        super::notice(&format!("ignored {name}: its extension must be in lower case"));
    }
    PageSources::default().open_host(&config.errors.pages).await?;
    let deployer = Arc::new(Deployer::offline(&config)?);
    let (mut backends, mut refusals, mut compiling) = (Vec::new(), Vec::new(), JoinSet::new());
    let mut idle = Vec::new();
    for (name, found) in scan.found {
        refusals.extend(found.trouble);
        match found.state {
            FileState::Ready(spec) => {
                absent_files(&spec).iter().for_each(|absent| super::notice(absent));
                doubts(&spec, &config).iter().for_each(|doubt| super::notice(&clean(doubt)));
                let deployer = Arc::clone(&deployer);
                compiling.spawn(async move {
                    let (name, manifest) = (spec.name.clone(), Box::new(spec.manifest.clone()));
                    deployer.deploy(spec).await.map_err(|refusal| (name, manifest, refusal))
                });
            }
            FileState::Refused(refusal) | FileState::Orphan(refusal) => {
                idle.push(IdleService { name, manifest: found.manifest, refusal: Some(refusal.clone()) });
                refusals.push(refusal);
            }
            FileState::Disabled | FileState::Changing | FileState::Pulling => {
                idle.push(IdleService { name, manifest: found.manifest, refusal: None });
            }
        }
    }
    let total = compiling.len();
    while let Some(finished) = compiling.join_next().await {
        match finished.map_err(|crash| format!("a compilation panicked: {crash}"))? {
            Ok(backend) => {
                let of = &backend.deployment;
                let manifest = file_name(&of.spec.path.with_extension("toml"));
                let routes = &of.spec.manifest.routes;
                let hints = of.validation.iter().flat_map(|checks| [checks.hints(), checks.unused(routes)].concat());
                hints.for_each(|hint| super::notice(&clean(&format!("{manifest}: {hint}"))));
                backends.push(backend);
            }
            Err((name, manifest, refusal)) => {
                idle.push(IdleService { name, manifest: Some(manifest), refusal: Some(refusal.clone()) });
                refusals.push(refusal);
            }
        }
        super::notice(&format!("[{}/{total}] compiled", total - compiling.len()));
    }
    if config.guests.is_dir() {
        let specs = backends.iter().map(|backend| &backend.deployment.spec);
        subjects::hints(specs).iter().for_each(|hint| super::notice(&clean(hint)));
    }
    let publisher = Publisher::alone(&config);
    // As at a start of the host: a service that is refused or disabled has routes.
    let absent = Absentees::new(idle.iter().map(IdleService::absent), idle.iter().map(|service| &*service.name));
    publisher.publish_beside(backends, refusals, true, absent);
    let current = publisher.current();
    current.snapshot().taken_paths().iter().for_each(|taken| super::notice(&taken.problem));
    let mut reports = report::files(&current.snapshot());
    if !config.guests.is_dir() {
        // The services beside a single file are not read.
        reports
            .iter_mut()
            .filter_map(|report| report.service.as_mut())
            .for_each(|service| service.unknown_calls.clear());
    }
    let checked = |info: ServiceInfo| CheckedService::new(info, &current.snapshot(), &config.limits);
    let reports = reports.into_iter();
    Ok(reports
        .map(|FileReport { file, service, refused }| FileReport { file, service: service.map(checked), refused })
        .collect())
}

/// A service that would not serve.
struct IdleService {
    name: String,
    manifest: Option<Box<Manifest>>,
    refusal: Option<Refusal>,
}

impl IdleService {
    fn absent(&self) -> Absent<'_> {
        Absent { name: &self.name, manifest: self.manifest.as_deref(), refusal: self.refusal.as_ref() }
    }
}

/// A service, with what is required of its requests.
#[derive(Serialize)]
struct CheckedService {
    #[serde(flatten)]
    info: ServiceInfo,
    /// Its policies, and those of its routes.
    policies: Vec<PolicyStatus>,
    /// Its limits that are not those of the host.
    limits: BTreeMap<&'static str, String>,
}

impl CheckedService {
    fn new(info: ServiceInfo, snapshot: &Snapshot, of_host: &Limits) -> Self {
        let (mut policies, mut limits) = (Vec::new(), BTreeMap::new());
        if let Some(target) = snapshot.target(&info.name) {
            policies = target.admission.policies(Instant::now());
            // Without requests, states say nothing.
            policies.iter_mut().for_each(|policy| policy.state = None);
            limits = target.deployment().limits().shown();
            let default = of_host.shown();
            limits.retain(|name, value| default.get(name) != Some(value));
        }
        Self { info, policies, limits }
    }
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

fn format_report(report: &FileReport<CheckedService>) -> String {
    let (mut lines, file) = (Vec::new(), clean(&report.file));
    if let Some(CheckedService { info: service, policies, limits }) = &report.service {
        let size = bytesize::ByteSize(service.bytes).display().iec();
        let short = service.digest.get(..12).unwrap_or_default();
        lines.push(format!("{file}  {size}  sha256 {short}"));
        lines.push(format!("  answers at  {}", addresses(&service.routes, &service.host)));
        for view in SECTIONS.iter().filter_map(|section| section.view.as_ref().zip(service.sections.get(section.name)))
        {
            let (View { label, text, .. }, value) = view;
            lines.push(format!("  {label:11} {}", clean(&text(value))));
        }
        for PolicyStatus { policy, route, settings, .. } in policies {
            let route = route.as_ref().map_or(String::new(), |route| format!("{route}: "));
            lines.push(format!("  {policy:11} {}", clean(&format!("{route}{settings}"))));
        }
        if !limits.is_empty() {
            let limits: Vec<_> = limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
            lines.push(format!("  {:11} {}", "limits", limits.join(", ")));
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
            absent_files(&GuestSpec {
                name,
                path,
                content: None,
                digest: Digest::of(b""),
                size: 0,
                middleware: Vec::new(),
                manifest,
            })
        };
        assert_eq!(absent(""), [""; 0]);
        assert_eq!(absent("fallback = 'there.html'"), [""; 0]);
        let both = absent("fallback = 'a/index.html'\nnot_found = '404.html'");
        assert!(both[0].starts_with("web.toml: files.fallback: there is no file a/index.html in /"), "{both:?}");
        assert!(both[1].starts_with("web.toml: files.not_found: there is no file 404.html in "), "{both:?}");
    }
}

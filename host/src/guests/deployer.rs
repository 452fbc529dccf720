//! Deployment of files: from a [`GuestSpec`] to the [`Backend`] that serves it.
//!
//! A [`Guest`] is the proof that a component can be served: compiled, linked, exporting `wasi:http`, and instantiated once
//! under its own limits. Each failure on the way is a [`Refusal`], and affects no other service.

use std::path::Path;
use std::sync::{Arc, Weak};

use tokio::sync::Semaphore;

use crate::audit::{AuditTrail, Event};
use crate::guests::backend::Backend;
use crate::guests::blobs::Blobs;
use crate::guests::configurations::Configurations;
use crate::guests::databases::Databases;
use crate::guests::postgres::PostgresAccounts;
use crate::guests::stores::Stores;
use crate::guests::volumes::Volumes;
use lodge_base::config::Config;
use lodge_base::config::state::{State as StateConfig, StatePath};
use lodge_base::cpu::scheduler::{self, CpuScheduler};
use lodge_base::key_changes::KeyObserver;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::digest::Digest;
use lodge_manifest::files::FilesSpec;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::{GuestSpec, split};
use lodge_manifest::upstream;
use lodge_runtime::capabilities::State;
use lodge_runtime::capabilities::messaging::{GrantedMessages, Inboxes, MessageRequests, NoRequests, PublishingShare};
use lodge_runtime::compile::Compiler;
use lodge_runtime::guest::{Guest, GuestHost};
use lodge_runtime::optimiser::Optimiser;
use lodge_runtime::outgoing::Outgoing;
use lodge_runtime::trial::Trials;
use lodge_state::Pattern;
use lodge_traffic::auth::api_keys::KeyRing;
use lodge_traffic::auth::sources::CredentialSources;
use lodge_traffic::error_pages::PageSources;
use lodge_traffic::live_files::LiveValue;
use lodge_traffic::service::Services;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::static_files::{self, StaticFiles};
use lodge_traffic::upstreams::{SharedUpstreams, Upstream};
use lodge_traffic::validation::sources::SchemaSources;

/// Deploys services, and owns the state that their versions share.
pub struct Deployer {
    guests: Arc<GuestHost>,
    services: Services,
    /// What all upstreams share.
    pub upstreams: SharedUpstreams,
    outgoing: Outgoing,
    trials: Arc<Trials>,
    inboxes: Arc<Inboxes>,
    /// Where guests send messages that they wait for the reply to.
    requests: Weak<dyn MessageRequests>,
    /// The stores of services.
    pub stores: Arc<Stores>,
    databases: Databases,
    postgres: PostgresAccounts,
    blobs: Blobs,
    volumes: Volumes,
    /// What bounds the reads of all directories of files.
    file_reads: Arc<Semaphore>,
    /// The configurations of services.
    configurations: Configurations,
    /// What credentials are verified with.
    credentials: CredentialSources,
    /// The schemas of request bodies, and the documents of APIs.
    schemas: SchemaSources,
    /// The pages for errors of services.
    pages: PageSources,
    /// Whether the host has an audit trail.
    audits: bool,
    optimiser: Arc<Optimiser>,
}

impl Deployer {
    /// Creates the deployer of a host.
    pub fn new(
        config: &Config,
        compiler: Compiler,
        services: Services,
        upstreams: SharedUpstreams,
        (outgoing, requests): (Outgoing, Weak<dyn MessageRequests>),
        stores: Arc<Stores>,
    ) -> Self {
        let (databases, blobs) = (Databases::new(config), Blobs::new(config));
        let credentials = CredentialSources::new(&compiler.metrics, config.tls.client_ca.is_some());
        let compiler = Arc::new(compiler);
        let trials = Arc::new(Trials::new(!outgoing.is_disabled()));
        let optimiser = Arc::new(Optimiser::new(Arc::clone(&compiler), Arc::clone(&trials)));
        let warm = Arc::new(Semaphore::new(config.engine.warm));
        let guests = Arc::new(GuestHost { compiler, warm, idle_unload: config.engine.idle_unload });
        let (inboxes, configurations) = (Arc::default(), Configurations::new(config));
        Self {
            audits: config.audit.file.is_some(),
            guests,
            services,
            upstreams,
            outgoing,
            trials,
            inboxes,
            requests,
            stores,
            databases,
            postgres: PostgresAccounts::of_this_build(),
            blobs,
            volumes: Volumes::new(config),
            file_reads: Arc::new(Semaphore::new(static_files::HOST_WAITING)),
            configurations,
            credentials,
            schemas: SchemaSources::new(config.program.explains),
            pages: PageSources::default(),
            optimiser,
        }
    }

    /// Records changes of files of keys in the audit trail, from now on.
    pub fn audit_keys(&mut self, audit: &Arc<AuditTrail>) {
        let audit = Arc::clone(audit);
        self.credentials.set_observer(KeyObserver::new(move |change| audit.record(Event::keys(change))));
    }

    /// Creates a deployer that only checks whether services could be deployed. Their guests can send no requests.
    ///
    /// # Errors
    /// When the system has no address space for the configured sizes.
    pub fn offline(config: &Config) -> Result<Self, String> {
        let services = Services::new(CpuScheduler::new(scheduler::workers()));
        let upstreams = SharedUpstreams::new(config.upstreams.connections, &config.kubernetes);
        // State ends with the check.
        let state = StateConfig { url: None, path: StatePath::Memory, ..config.state.clone() };
        let config = Config { state, ..config.clone() };
        let (compiler, stores) = (Compiler::new(&config)?, Arc::new(Stores::new(&config)));
        let requests = Weak::<NoRequests>::new();
        let mut this = Self::new(&config, compiler, services, upstreams, (Outgoing::disabled(), requests), stores);
        this.configurations.set_offline();
        this.credentials.set_offline();
        this.schemas.set_offline();
        Ok(this)
    }

    /// Returns the API keys of a file, which is read again when it changes.
    ///
    /// # Errors
    /// One line, if it cannot be read or is not valid.
    pub async fn api_keys(&self, file: &Path) -> Result<Arc<LiveValue<KeyRing>>, String> {
        self.credentials.api_keys(file).await
    }

    /// Returns the counters of the host.
    pub fn metrics(&self) -> &Metrics {
        &self.guests.compiler.metrics
    }

    /// Deploys these files.
    ///
    /// # Errors
    /// Returns why they cannot be served, and what to do.
    pub async fn deploy(&self, spec: GuestSpec) -> Result<Backend, Refusal> {
        match (spec.manifest.upstream.clone(), spec.manifest.files.clone()) {
            (Some(upstream), _) => self.deploy_upstream(spec, upstream).await.map(Backend::from),
            (None, Some(files)) => self.deploy_files(spec, files).await.map(Backend::from),
            (None, None) => self.deploy_guest(spec).await.map(Backend::from),
        }
    }

    /// Compiles a component and tries it out. Waits for a place among the compilations, if there is no machine code yet.
    ///
    /// # Errors
    /// Returns why it cannot be served, and what to do.
    pub async fn deploy_guest(&self, spec: GuestSpec) -> Result<Arc<Guest>, Refusal> {
        let (digest, compiler) = (spec.code_digest(), &self.guests.compiler);
        let code = compiler.code(&spec).await?;
        let deployment = self.deployment(spec).await?;
        let manifest = &deployment.spec.manifest;
        // The versions of a service share its subscription.
        if code.interfaces.only_messages() && manifest.consume.is_none() && !deployment.name.contains('@') {
            let (file, name) = (file_name(&deployment.spec.path), &deployment.name);
            let reason = "it handles messages and no requests, and its manifest names no subject";
            return Err(Refusal::new(&file, reason, format!("add `consume.subject = \"SUBJECT\"` to {name}.toml")));
        }
        let sender = self.outgoing.sender(&deployment.service, &manifest.grants, &manifest.limits);
        let config = self.configurations.open(&deployment.spec).await?;
        let keyvalue = match &manifest.keyvalue {
            Some(grant) => Some(self.stores.open(&deployment.service, grant, &deployment.spec.path).await?),
            None => None,
        };
        let lock = match &manifest.lock {
            Some(grant) => Some(self.stores.locks(&deployment.service, grant, &deployment.spec.path).await?),
            None => None,
        };
        let sqlite = match &manifest.sqlite {
            Some(grant) => Some(self.databases.open(&deployment.service, grant, &deployment.spec.path)?),
            None => None,
        };
        let postgres = match &manifest.postgres {
            Some(grant) => {
                let (service, path) = (&deployment.service, &deployment.spec.path);
                Some(self.postgres.open(service, grant, path, config.as_deref()).await?)
            }
            None => None,
        };
        let blobs = match &manifest.blobstore {
            Some(grant) => Some(self.blobs.open(&deployment.service, grant, &deployment.spec.path).await?),
            None => None,
        };
        let volumes = self.volumes.open(&deployment.spec, &self.pages).await?;
        let messages = self.messages(&deployment).await?;
        let state = State { config, keyvalue, lock, sqlite, postgres, blobs, volumes, messages };
        let guest = Arc::new(Guest::new(deployment, Arc::clone(&code), sender, state, &self.guests));
        if let Err(refusal) = self.trials.run(&guest, &code).await {
            if refusal.passing {
                compiler.hold(digest, code);
            }
            return Err(refusal);
        }
        compiler.unhold(digest);
        // Versions share what their service does.
        if guest.deployment().spec.version_of().is_none() {
            self.stores.share(&guest.deployment().service, guest.store());
        }
        self.optimiser.optimise(&guest, &code);
        Ok(guest)
    }

    /// Returns the version of these files, with what its requests are verified and validated with, and the pages for errors.
    async fn deployment(&self, spec: GuestSpec) -> Result<Arc<Deployment>, Refusal> {
        let mut deployment = Deployment::new(spec, &self.services);
        if !self.audits && deployment.spec.manifest.policies.audits_any() {
            let file = file_name(&deployment.spec.path.with_extension("toml"));
            let reason = "audit: this host has no audit trail";
            return Err(Refusal::new(&file, reason, "set `audit.file` in lodge.toml"));
        }
        let (directory, manifest) =
            (deployment.spec.path.with_file_name(""), deployment.spec.path.with_extension("toml"));
        let refused = |problem: String, remedy: &str| Refusal::new(&file_name(&manifest), &problem, remedy).passing();
        if let Some(checks) = &mut deployment.auth {
            let remedy = "the service starts as soon as its credentials can be verified";
            self.credentials.open(checks, &directory).await.map_err(|problem| refused(problem, remedy))?;
        }
        if let Some(checks) = &mut deployment.validation {
            let remedy = "the service starts as soon as the file can be used";
            self.schemas
                .open(checks, &deployment.name, &directory)
                .await
                .map_err(|problem| refused(problem, remedy))?;
        }
        let remedy = "the service starts as soon as the file is a page";
        let (service, _) = split(&deployment.spec.name);
        let pages = self.pages.open_service(&deployment.spec.manifest, service, &directory).await;
        deployment.pages = pages.map_err(|problem| refused(problem, remedy))?;
        self.volumes.check_pages(&deployment.spec).await.map_err(|problem| refused(problem, remedy))?;
        Ok(Arc::new(deployment))
    }

    /// Opens the messages for a service that publishes some, or may reply to some.
    async fn messages(&self, deployment: &Deployment) -> Result<Option<Arc<GrantedMessages>>, Refusal> {
        let manifest = &deployment.spec.manifest;
        if manifest.publish.is_empty() && manifest.consume.is_none() {
            return Ok(None);
        }
        let unstored = manifest.consume.as_ref().is_some_and(|consume| consume.at_most_once);
        let refused = |error: lodge_state::Error| {
            Refusal::new(&file_name(&deployment.spec.path), error.to_string(), "change `publish` in its manifest")
        };
        Ok(Some(Arc::new(GrantedMessages {
            queue: self.stores.messages(&deployment.spec.path, unstored).await?,
            subjects: manifest
                .publish
                .iter()
                .map(|text| Pattern::new(text))
                .collect::<Result<_, _>>()
                .map_err(refused)?,
            service: Arc::clone(&deployment.service),
            inboxes: Arc::clone(&self.inboxes),
            requests: Weak::clone(&self.requests),
            timeout: self.stores.timeout(),
            share: PublishingShare::default(),
        })))
    }

    /// Opens a directory of files.
    async fn deploy_files(&self, spec: GuestSpec, files: Arc<FilesSpec>) -> Result<Arc<StaticFiles>, Refusal> {
        let deployment = self.deployment(spec).await?;
        let root = self.volumes.root(&deployment.spec, &files.root).await?;
        Ok(Arc::new(StaticFiles::new(deployment, files, root, Arc::clone(&self.file_reads))))
    }

    /// Finds the replicas of an upstream. Takes over the state of the service's upstream before.
    async fn deploy_upstream(&self, spec: GuestSpec, upstream: Arc<upstream::Spec>) -> Result<Arc<Upstream>, Refusal> {
        let (file, directory) = (file_name(&spec.path), spec.path.with_file_name(""));
        let deployment = self.deployment(spec).await?;
        let service = Arc::clone(&deployment.service);
        if let Some(consume) = &deployment.spec.manifest.consume {
            // It receives messages, so there must be some.
            self.stores.messages(&deployment.spec.path, consume.at_most_once).await?;
        }
        let before = self.upstreams.last(&service.name);
        let made = Upstream::new(deployment, upstream, &directory, &self.upstreams, before.as_deref()).await;
        let upstream =
            made.map_err(|why| Refusal::new(&file, why, "fix this: the upstream cannot be used without it").passing())?;
        let upstream = Arc::new(upstream);
        self.upstreams.remember(&service.name, &upstream);
        Ok(upstream)
    }

    /// Frees the machine code that was only kept for versions which are not `tried` again.
    pub fn release(&self, tried: impl Fn(Digest) -> bool) {
        self.guests.compiler.release(tried);
    }

    /// Closes the stores of all services, after the last request.
    pub async fn close(&self) {
        self.stores.close().await;
    }
}

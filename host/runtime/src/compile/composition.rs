//! Compositions: a component with others in front of it, each of which gets the requests and calls the next one.
//!
//! Every part is compiled by itself, once for all services that use it, and all are instances in one Store: one sandbox, with one set
//! of limits and grants. Nothing is written that combines them, so a part is what its digest says.

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime_wasi_http::handler::Proxy;

use super::explain::{misshapen, unlinkable};
use super::job::CodeKind;
use super::one_line::one_line;
use super::{Compiled, Compiler, Interfaces, worlds};
use crate::capabilities::{Ctx, absent, middleware};
use crate::error::backtrace::PartImages;
use crate::exports::{Exports, HttpWorld, LinkedExports, is_message_handler};
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;

/// The machine code of all parts: that of WASI 0.3, and never baseline code, whose parts would be of other engines.
const KIND: CodeKind = CodeKind { concurrent: true, baseline: false };

impl Interfaces {
    /// Whether the component passes requests on to another one.
    pub(super) fn passes_on(&self) -> bool {
        self.imports.iter().any(|import| import.starts_with(middleware::INTERFACE))
    }

    fn handles(&self) -> bool {
        self.exports.iter().any(|export| export.starts_with(middleware::INTERFACE))
    }
}

impl Compiled {
    /// Creates an instance of each part, and returns the exports of the outermost one.
    ///
    /// # Errors
    /// If start code traps, or an export does not have the type of its interface.
    pub(crate) async fn instantiate(&self, store: &mut Store<Ctx>) -> wasmtime::Result<Exports> {
        store.data_mut().parts = self.images.clone();
        let mut behind = Vec::with_capacity(self.behind.len());
        for part in &self.behind {
            if let Some(Proxy::P3(handler)) = part.instantiate(&mut *store).await?.http {
                behind.push(Arc::new(handler));
            }
        }
        store.data_mut().set_behind(behind);
        self.exports.instantiate(store).await
    }
}

impl Compiler {
    /// Returns the machine code of a component and of those in front of it.
    ///
    /// # Errors
    /// Why one of them has none, or they do not fit together.
    pub(super) async fn composed(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        let digest = spec.code_digest();
        if let Some(code) = self.known(digest) {
            return Ok(code);
        }
        let mut parts = Vec::new();
        for part in spec.parts() {
            let name = spec.manifest.middleware.get(parts.len());
            let code = self.lasting(&part).await;
            let code = code.and_then(|code| fits(&code, &part, name.is_some()).map(|()| code));
            // The manifest is that of the service, and the file may be of several.
            parts
                .push((part, code.map_err(|why| name.map_or_else(|| why.clone(), |name| in_front(spec, name, &why)))?));
        }
        Ok(self.remember(digest, self.compose(parts)?))
    }

    /// Returns optimised machine code of a part.
    async fn lasting(self: &Arc<Self>, part: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        let code = self.of_component(part).await?;
        if !code.kind.baseline {
            return Ok(code);
        }
        let permit = self.long.permit(part.size).await;
        match self.known_optimised(part.digest) {
            Some(code) => Ok(code),
            None => self.optimised(part, permit).await,
        }
    }

    /// Links parts, of which there is at least one.
    fn compose(&self, parts: Vec<(GuestSpec, Arc<Compiled>)>) -> Result<Compiled, Refusal> {
        let file = parts.last().map_or(String::new(), |(part, _)| file_name(&part.path));
        let refused = |(reason, remedy): (String, String)| Refusal::new(&file, reason, remedy);
        let linked =
            self.linked(KIND).map_err(|why| refused((why, "restart the host with smaller sizes".into())).passing())?;
        let mut links = Vec::new();
        for (position, (part, code)) in parts.iter().enumerate() {
            let (file, mut linker) = (file_name(&part.path), linked.linker.clone());
            let imports = &code.interfaces.imports;
            let pre = middleware::link_part(&mut linker, position)
                .and_then(|()| worlds::link(&linker, &code.component, imports));
            let is_linked = |interface: &str| absent::is_linked(&linker, &code.component, interface);
            let (pre, _) = pre.map_err(|error| unlinkable(&file, &error, is_linked))?;
            let exports = LinkedExports::new(pre, Some(HttpWorld::P3));
            links.push(exports.map_err(|error| misshapen(&file, &one_line(&error)))?);
        }
        let components: Vec<_> = parts.iter().map(|(_, code)| &code.component).collect();
        let extra = linked.extra(&components).map_err(refused)?;
        let images = PartImages::new(components.into_iter());
        let imports = parts.iter().flat_map(|(_, code)| code.interfaces.imports.iter());
        let imports: BTreeSet<_> = imports.filter(|name| !name.starts_with(middleware::INTERFACE)).cloned().collect();
        let mut links = links.into_iter();
        let Some((exports, (_, first))) = links.next().zip(parts.first()) else {
            return Err(refused(("it has no part".into(), "report this to Lodge's authors".into())));
        };
        let absent = parts.iter().flat_map(|(_, code)| code.interfaces.absent.iter().cloned()).collect();
        let (imports, exports_of) = (imports.into_iter().collect(), first.interfaces.exports.clone());
        let interfaces = Interfaces { imports, exports: exports_of, absent };
        Ok(Compiled {
            interfaces: Arc::new(interfaces),
            kind: KIND,
            engine: linked.engine.clone(),
            exports,
            behind: links.collect(),
            images: Some(Arc::new(images)),
            component: first.component.clone(),
            parts: parts.iter().map(|(part, code)| (part.digest, Arc::clone(code))).collect(),
            extra,
            _linked: linked,
        })
    }
}

/// The refusal of a service because of a component in front of it.
fn in_front(spec: &GuestSpec, name: &str, why: &Refusal) -> Refusal {
    let reason = format!("middleware {name}: {}", why.reason);
    // The digest would be that of the middleware, which is none of the component of the service.
    Refusal { file: file_name(&spec.path.with_extension("toml")), reason, digest: None, ..why.clone() }
}

/// Checks whether a component can be a part: of WASI 0.3, without messages that are no requests, and one that passes requests on if it is
/// not the last one.
fn fits(code: &Compiled, part: &GuestSpec, is_middleware: bool) -> Result<(), Refusal> {
    let (file, interfaces) = (file_name(&part.path), &code.interfaces);
    if !interfaces.handles() {
        let reason = "it exports no wasi:http/handler of WASI 0.3, which all parts need where there is `middleware`";
        return Err(Refusal::new(&file, reason, "build it for WASI 0.3, or remove `middleware` from the manifest"));
    }
    if interfaces.exports.iter().any(|export| is_message_handler(export)) {
        let reason = "it exports an interface for messages, which would not pass through all parts";
        let remedy = "receive messages as requests, without this export, or remove `middleware` from the manifest";
        return Err(Refusal::new(&file, reason, remedy));
    }
    match (is_middleware, interfaces.passes_on()) {
        (true, false) => {
            let reason = "it imports no wasi:http/handler, so that no request would reach the service";
            Err(Refusal::new(
                &file,
                reason,
                "build it for the world wasi:http/middleware, or remove it from `middleware`",
            ))
        }
        (false, true) => Err(alone(&file)),
        _ => Ok(()),
    }
}

/// The refusal of a component that has nothing behind it.
pub(super) fn alone(file: &str) -> Refusal {
    let reason = "it imports wasi:http/handler, to pass requests on to another component";
    Refusal::new(
        file,
        reason,
        "name it in `middleware` of the manifest of that component, and keep it in another directory",
    )
}

//! Interfaces that a component imports and Lodge does not have, or has with other types, linked to functions that fail.
//!
//! A function returns the error of its interface or, where it has none, traps. The first call of each interface is logged once per
//! version of a service. Which components get this is decided by [`compile`](crate::compile).

use std::sync::Arc;

use wasmtime::component::types::{Case, ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};

use super::Ctx;
use super::sandbox::Sandbox;

/// The type of the resources of absent interfaces. There are none.
struct Never;

/// The cases of errors that fit best, in this order; then the first one with a text.
const CASES: [&str; 9] = [
    "other",
    "error",
    "runtime-error",
    "internal-error",
    "not-supported",
    "unsupported",
    "access-denied",
    "access",
    "connection-failed",
];

/// An interface that a component imports and Lodge does not have, or has with other types.
pub(crate) struct AbsentInterface {
    /// Its name, as the component imports it.
    pub(crate) name: String,
    /// What Lodge has instead, for the developer of the guest.
    pub(crate) instead: String,
    /// Its number among those of the component, from 0.
    pub(crate) number: usize,
}

/// A function of such an interface.
struct AbsentFunction {
    interface: Arc<AbsentInterface>,
    name: String,
}

/// Whether the linker has something of an interface that a component imports, of whatever type.
pub(crate) fn is_linked(linker: &Linker<Ctx>, component: &Component, interface: &str) -> bool {
    let (ty, engine) = (component.component_type(), component.engine());
    let import = ty.get_import(engine, interface).map(|import| import.ty);
    let Some(ComponentItem::ComponentInstance(imported)) = import else { return false };
    let mut linker = linker.clone();
    let Ok(mut linked) = linker.instance(interface) else { return true };
    // A linker tells what it has only by refusing to have it twice.
    imported.exports(engine).any(|(name, item)| match item.ty {
        ComponentItem::ComponentFunc(_) => linked.func_new(name, |_, _, _, _| Ok(())).is_err(),
        ComponentItem::Resource(_) => linked.resource(name, ResourceType::host::<Never>(), |_, _| Ok(())).is_err(),
        _ => false,
    })
}

/// Adds functions that fail to the linker, with the types that the component imports, in the place of those that it has.
///
/// # Errors
/// If the import is no instance of functions, types and resources.
pub(crate) fn link(
    linker: &mut Linker<Ctx>,
    component: &Component,
    interface: AbsentInterface,
) -> wasmtime::Result<()> {
    let (ty, engine) = (component.component_type(), component.engine());
    let import = ty.get_import(engine, &interface.name).map(|import| import.ty);
    let Some(ComponentItem::ComponentInstance(imported)) = import else {
        wasmtime::bail!("`{}` is not an interface", interface.name);
    };
    let mut linked = linker.allow_shadowing(true).instance(&interface.name)?;
    let interface = Arc::new(interface);
    for (name, item) in imported.exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                let function = AbsentFunction { interface: Arc::clone(&interface), name: name.to_owned() };
                link_function(&mut linked, &ty, function)?;
            }
            ComponentItem::Resource(_) => linked.resource(name, ResourceType::host::<Never>(), |_, _| Ok(()))?,
            ComponentItem::Type(_) => {}
            _ => wasmtime::bail!("`{}` exports more than functions, types and resources", interface.name),
        }
    }
    Ok(())
}

fn link_function(
    linked: &mut LinkerInstance<'_, Ctx>,
    ty: &ComponentFunc,
    function: AbsentFunction,
) -> wasmtime::Result<()> {
    let name = function.name.clone();
    if ty.async_() {
        return linked.func_new_concurrent(&name, move |accessor, ty, _, results| {
            let failed = accessor.with(|mut access| function.fail(&access.get().sandbox, &ty, results));
            Box::pin(std::future::ready(failed))
        });
    }
    linked.func_new(&name, move |store, ty, _, results| function.fail(&store.data().sandbox, &ty, results))
}

impl AbsentFunction {
    /// Sets the result to an error.
    ///
    /// # Errors
    /// If the function has no result that can be one: then the guest traps.
    fn fail(&self, sandbox: &Sandbox, ty: &ComponentFunc, results: &mut [Val]) -> wasmtime::Result<()> {
        let AbsentInterface { name: interface, instead, number } = &*self.interface;
        let function = &self.name;
        if sandbox.version.denials.first_absent(*number) {
            let (service, version, request_id) =
                (&*sandbox.service.name, &*sandbox.version.name, &*sandbox.request_id());
            tracing::warn!(
                service,
                version,
                request_id,
                "the guest called {function} of {interface}, and {instead} (logged once)"
            );
        }
        let failure = match ty.results().next() {
            Some(Type::Result(result)) => match result.err() {
                Some(error) => error_value(&error, &format!("{interface}: {instead}")).map(Some),
                None => Some(None),
            },
            _ => None,
        };
        match (failure, results) {
            (Some(failure), [result]) => {
                *result = Val::Result(Err(failure.map(Box::new)));
                Ok(())
            }
            _ => wasmtime::bail!("the guest called {function} of {interface}, and {instead}"),
        }
    }
}

/// Returns an error of this type; `None` if it has none that fits.
fn error_value(ty: &Type, message: &str) -> Option<Val> {
    match ty {
        Type::String => Some(Val::String(message.to_owned())),
        Type::Enum(ty) => {
            let case = CASES.into_iter().find(|known| ty.names().any(|name| name == *known))?;
            Some(Val::Enum(case.to_owned()))
        }
        Type::Variant(ty) => {
            let known = CASES.into_iter().filter_map(|known| ty.cases().find(|case| case.name == known));
            known.chain(ty.cases().filter(|case| case.ty.is_some())).find_map(|case| case_value(&case, message))
        }
        _ => None,
    }
}

/// Returns this case of a variant; `None` if it needs more than a text.
fn case_value(case: &Case<'_>, message: &str) -> Option<Val> {
    let text = || Box::new(Val::String(message.to_owned()));
    let payload = match &case.ty {
        None => None,
        Some(Type::String) => Some(text()),
        Some(Type::Option(ty)) if ty.ty() == Type::String => Some(Box::new(Val::Option(Some(text())))),
        Some(_) => return None,
    };
    Some(Val::Variant(case.name.to_owned(), payload))
}

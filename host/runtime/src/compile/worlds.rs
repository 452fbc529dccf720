//! Components that import the whole world of an SDK, also what they never call, and how these are linked.
//!
//! Some toolchains, such as that of Python, keep every import of the world that a component is built for. Such a component is
//! linked if Lodge knows all that it lacks, or has with other types: functions of these interfaces fail when they are called. Any other component that
//! imports an interface which Lodge does not have is refused, since it would call it.

use wasmtime::component::{Component, InstancePre, Linker};

use super::explain::{OTHER_TYPES, difference, instead_of, missing};
use super::one_line::one_line;
use crate::capabilities::Ctx;
use crate::capabilities::absent::{self, AbsentInterface};

/// Imports of worlds. No component uses all of one row, so one that imports them imports the whole world.
const WHOLE: [&[&str]; 1] = [&[
    "fermyon:spin/llm@2.0.0",
    "fermyon:spin/mqtt@2.0.0",
    "fermyon:spin/mysql@2.0.0",
    "fermyon:spin/postgres@2.0.0",
    "fermyon:spin/redis@2.0.0",
]];

/// Whether a component with these imports imports the whole world of an SDK.
pub fn imports_whole_world(imports: &[String]) -> bool {
    WHOLE.iter().any(|world| world.iter().all(|name| imports.iter().any(|import| import == name)))
}

/// Links a component. Returns also the imports that Lodge does not have.
///
/// # Errors
/// Names an import that is missing, or has another type.
pub(super) fn link(
    linker: &Linker<Ctx>,
    component: &Component,
    imports: &[String],
) -> wasmtime::Result<(InstancePre<Ctx>, Vec<String>)> {
    let mut error = match linker.instantiate_pre(component) {
        Err(error) if imports_whole_world(imports) => error,
        linked => return Ok((linked?, Vec::new())),
    };
    let (known, mut linker, mut lacking) = (linker, linker.clone(), Vec::<String>::new());
    // Each error names one import.
    for number in 0..imports.len() {
        let text = one_line(&error);
        let Some((name, instead)) = missing(&text).and_then(|name| Some((name, instead_of(name)?))) else { break };
        if lacking.iter().any(|known| known == name) {
            break;
        }
        let differs = difference(&text, absent::is_linked(known, component, name)).is_some();
        let instead = if differs { OTHER_TYPES.to_owned() } else { instead };
        let interface = AbsentInterface { name: name.to_owned(), instead, number };
        absent::link(&mut linker, component, interface)?;
        lacking.push(name.to_owned());
        match linker.instantiate_pre(component) {
            Ok(linked) => return Ok((linked, lacking)),
            Err(next) => error = next,
        }
    }
    Err(error)
}

//! Reads a component's imports and exports from its sections, without compiling it.

use wasmparser::{ComponentExternalKind, Parser, Payload};

use lodge_runtime::compile::Interfaces;

/// Returns the names of the outermost imports and exports.
///
/// # Errors
/// If the bytes are not a component.
pub(in crate::cli) fn interfaces(bytes: &[u8]) -> Result<Interfaces, String> {
    if !Parser::is_component(bytes) {
        return Err("it is not a component".into());
    }
    let mut interfaces = Interfaces::default();
    let mut depth = 0_u32;
    let damaged = |error: wasmparser::BinaryReaderError| format!("the component is damaged: {error}");
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    interfaces.imports.push(import.map_err(damaged)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(damaged)?;
                    if export.kind != ComponentExternalKind::Type {
                        interfaces.exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(interfaces)
}

/// Returns the versions of WASI that the component uses, sorted.
pub(in crate::cli) fn wasi_versions(interfaces: &Interfaces) -> Vec<String> {
    let names = interfaces.imports.iter().chain(&interfaces.exports).filter(|name| name.starts_with("wasi:"));
    let mut versions: Vec<_> = names.filter_map(|name| Some(name.rsplit_once('@')?.1.to_owned())).collect();
    let numbers = |version: &String| version.split(['.', '-']).map(|part| part.parse::<u64>().ok()).collect::<Vec<_>>();
    versions.sort_by_key(|version| (numbers(version), version.clone()));
    versions.dedup();
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_components_are_ignored() {
        let text = r#"(component
            (import "wasi:cli/stdout@0.2.12" (instance))
            (import "wasi:cli/stdin@0.2.3" (instance))
            (component (import "inner" (func)) (core module))
            (core module)
            (import "wasi:http/types@0.3.0" (instance $types (export "t" (type (sub resource)))))
            (type $t u8)
            (export "a-type" (type $t))
            (export "wasi:http/handler@0.3.0" (instance $types)))"#;
        let found = interfaces(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(found.imports, ["wasi:cli/stdout@0.2.12", "wasi:cli/stdin@0.2.3", "wasi:http/types@0.3.0"]);
        assert_eq!(found.exports, ["wasi:http/handler@0.3.0"]);
        assert_eq!(wasi_versions(&found), ["0.2.3", "0.2.12", "0.3.0"]);
    }

    #[test]
    fn damaged_component_is_an_error() {
        let component = wat::parse_str("(component (import \"a\" (func)))").unwrap();
        // A component cut between two sections is a smaller valid one; anywhere else it is an error.
        let cut: Vec<_> = (0..component.len()).map(|end| interfaces(&component[..end])).collect();
        assert!(cut.last().unwrap().as_ref().is_err_and(|why| why.contains("damaged")), "{cut:?}");
        assert!(interfaces(&wat::parse_str("(module)").unwrap()).is_err());
        assert!(interfaces(b"").is_err());
    }
}

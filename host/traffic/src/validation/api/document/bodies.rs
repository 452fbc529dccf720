//! The bodies of operations, with their types of content.

use std::sync::Arc;

use super::{DocumentPart, DocumentReader, Result, mistake};
use crate::validation::api::{OperationBody, OperationType};
use crate::validation::{is_json, is_token};

/// The most types of content of a body, and the most bytes of one: 127 on each side of the slash (RFC 6838, 4.2).
const MOST_TYPES: usize = 20;
const MOST_TYPE_BYTES: usize = 255;

impl<'d, 't> DocumentReader<'d, 't> {
    /// Returns a body, which is read once.
    pub(super) fn body(&mut self, of: DocumentPart<'d, 't>) -> Result<Arc<OperationBody>> {
        let of = self.followed(of)?;
        let here = std::ptr::from_ref(of.value);
        if let Some(known) = self.known_bodies.get(&here) {
            return Ok(Arc::clone(known));
        }
        let body = Arc::new(self.read_body(&of)?);
        self.known_bodies.insert(here, Arc::clone(&body));
        Ok(body)
    }

    fn read_body(&mut self, of: &DocumentPart<'d, 't>) -> Result<OperationBody> {
        let Some(content) = of.get("content") else { return mistake(&of.place, "it has no `content`") };
        if content.len() > MOST_TYPES {
            return mistake(&content.place, format!("there are more than {MOST_TYPES} media types"));
        }
        let mut types: Vec<OperationType> = Vec::new();
        for (kind, part) in content.entries()? {
            let kind = kind.split(';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
            if kind.len() > MOST_TYPE_BYTES {
                return mistake(&part.place, format!("a media type has at most {MOST_TYPE_BYTES} bytes"));
            }
            let sound = |(kind, sub): (&str, &str)| is_token(kind) && is_token(sub) && (kind != "*" || sub == "*");
            if !kind.split_once('/').is_some_and(sound) {
                return mistake(&part.place, "write a media type, such as application/json or text/*");
            }
            if types.iter().any(|known| known.kind == kind) {
                return mistake(&part.place, "the media type is there twice; parameters of it do not count");
            }
            // Bodies of other types are not read.
            let schema = part.get("schema").filter(|_| is_json(&kind) || kind.ends_with("/*"));
            let schema = schema.map(|schema| self.compiler.add(&schema.place)).transpose()?;
            types.push(OperationType { kind, schema });
        }
        Ok(OperationBody { required: of.flag("required")?.unwrap_or(false), types })
    }
}

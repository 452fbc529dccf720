//! The paths of a document, and the parameters in them.

use super::{MOST_SEGMENTS, Result, mistake};
use crate::validation::api::ApiPath;
use crate::validation::api::parameters::{ApiParameter, ParameterPlace};
use crate::validation::json::shown;
use lodge_manifest::route::{Pattern, Segment};

/// Returns what paths are ordered by: names come before parameters, at the first segment in which two paths differ.
pub(super) fn shape(path: &ApiPath) -> impl Iterator<Item = (bool, &str)> {
    path.segments.iter().map(|segment| match segment {
        Segment::Name(name) => (false, name.as_str()),
        Segment::Parameter(_) => (true, ""),
    })
}

/// Returns the segments of a path of the document; `None` if it is not one.
pub(super) fn segments(template: &str) -> Option<Vec<Segment>> {
    if template == "/" {
        return Some(Vec::new());
    }
    let (path, slash) = template.strip_suffix('/').map_or((template, false), |path| (path, true));
    if path.matches('/').count() > MOST_SEGMENTS {
        return None;
    }
    let mut segments = Pattern::read(path).ok()?.segments;
    let mut names: Vec<_> = segments.iter().filter_map(parameter_name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    if segments.is_empty() || names.len() < count {
        return None;
    }
    // A path that ends with a slash has an empty segment there.
    segments.extend(slash.then(|| Segment::Name(String::new())));
    Some(segments)
}

pub(super) fn parameter_name(segment: &Segment) -> Option<&str> {
    if let Segment::Parameter(name) = segment { Some(name) } else { None }
}

/// Finds the segments of the parameters of a path.
pub(super) fn place_in_path(place: &str, segments: &[Segment], parameters: &mut [ApiParameter]) -> Result<()> {
    let in_path = |parameter: &ApiParameter| parameter.place == ParameterPlace::Path;
    let described = |name: &&str| parameters.iter().any(|known| in_path(known) && *known.name == **name);
    if let Some(name) = segments.iter().filter_map(parameter_name).find(|name| !described(name)) {
        return mistake(place, format!("the parameter `{}` of its path is not described", shown(name)));
    }
    for parameter in parameters.iter_mut().filter(|parameter| in_path(parameter)) {
        let at = segments.iter().position(|segment| parameter_name(segment) == Some(&parameter.name));
        let Some(at) = at else {
            return mistake(place, format!("its path has no parameter `{}`", shown(&parameter.name)));
        };
        parameter.segment = at;
    }
    Ok(())
}

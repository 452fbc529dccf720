//! `redirects`: paths whose content is elsewhere now.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderValue, StatusCode, Uri};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use crate::Manifest;
use crate::route::{Route, Segment};
use crate::routes::read_host;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written};
use lodge_base::canonical;

/// The most redirects of a service. All of them are compared with the path of a request.
const MOST: usize = 100;

/// The most bytes of a target.
const TARGET: usize = 2_048;

/// The most bytes of a `Location`, with what is put into a target.
const LOCATION: usize = 8 << 10;

const STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

const KEYS: [&str; 4] = ["from", "to", "status", "host"];

/// `redirects`.
pub(crate) const SECTION: Section = Section {
    name: "redirects",
    page: "front",
    schema: redirects_schema,
    owner: Owner::Service(read),
    view: Some(View { label: "redirects", value: view, text: words }),
    ..Section::DEFAULT
};

fn redirects_schema() -> Value {
    let text = |help: &str| json!({ "type": "string", "description": help });
    let from = schema::described(schema::path(), "the path: `{name}` is any segment, and `/*` at its end all below it");
    let item = schema::table(
        &["from", "to"],
        json!({
            "from": from,
            "to": text("a path or URL, with the `{name}` and `*` of `from` in its path"),
            "status": { "enum": STATUSES, "default": 308 },
            "host": text("only requests for this host"),
        }),
    );
    json!({ "type": "array", "maxItems": MOST, "items": item, "description": "paths whose content is elsewhere now" })
}

/// A redirect. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The host that requests must have; `None` for any.
    host: Option<String>,
    from: Vec<Segment>,
    /// Whether all paths below `from` are redirected, and not itself.
    below: bool,
    to: Vec<TargetPart>,
    /// Whether the target has a query of its own, in place of that of the request.
    has_query: bool,
    /// The status of the response.
    pub status: StatusCode,
}

/// A part of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TargetPart {
    Text(String),
    /// The segment with this number in `from`.
    Segment(usize),
    /// What follows `from`.
    Rest,
}

impl Redirect {
    /// Returns the target for a request, whose host and path are in canonical form; `None` if it is not redirected.
    pub fn location(&self, host: &str, path: &str, query: Option<&str>) -> Option<HeaderValue> {
        if self.host.as_deref().is_some_and(|own| own != host) {
            return None;
        }
        let (mut rest, mut found) = (path.strip_prefix('/')?, Vec::new());
        for (at, pattern) in self.from.iter().enumerate() {
            let (segment, after) = rest.split_once('/').map_or((rest, None), |(segment, after)| (segment, Some(after)));
            let same = match pattern {
                Segment::Parameter(_) => !segment.is_empty(),
                Segment::Name(name) if segment.contains('%') => canonical::comparable(segment) == *name,
                Segment::Name(name) => segment == name,
            };
            let last = at + 1 == self.from.len();
            if !same || after.is_none() != (last && !self.below) {
                return None;
            }
            found.push(segment);
            rest = after.unwrap_or_default();
        }
        // Empty: of `/old//x`, nothing is below `/old`. Else the target could begin with the host of another site.
        if (!self.below && !rest.is_empty()) || rest.starts_with('/') {
            return None;
        }
        let (mut location, mut in_query) = (String::new(), false);
        for piece in &self.to {
            let value = match piece {
                TargetPart::Text(text) => {
                    in_query |= text.contains('?');
                    location.push_str(text);
                    continue;
                }
                TargetPart::Segment(at) => *found.get(*at)?,
                TargetPart::Rest => rest,
            };
            location.push_str(&if in_query { as_parameter(value) } else { encoded(value) });
            if location.len() > LOCATION {
                return None;
            }
        }
        if let Some(query) = query.filter(|_| !self.has_query) {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }

    /// Whether requests that this is about can have come by `route`.
    fn is_reached_by(&self, route: &Route) -> bool {
        let hosts = self.host.as_ref().zip(route.host.as_ref());
        let same = |pair: (&Segment, &Segment)| match pair {
            (Segment::Name(own), Segment::Name(name)) => own == name,
            _ => true,
        };
        let (own, pattern) = (self.from.len(), route.path.segments.len());
        let deep_enough = own == pattern || if own > pattern { route.path.below } else { self.below };
        hosts.is_none_or(|(own, host)| own == host)
            && deep_enough
            && self.from.iter().zip(&route.path.segments).all(same)
    }
}

impl Redirect {
    /// Whether it takes every request that `other` is about.
    fn covers(&self, other: &Self) -> bool {
        let same = |pair: (&Segment, &Segment)| match pair {
            (Segment::Parameter(_), _) => true,
            (Segment::Name(own), Segment::Name(name)) => own == name,
            (Segment::Name(_), Segment::Parameter(_)) => false,
        };
        let (own, of_other) = (self.from.len(), other.from.len());
        let deep_enough = match (self.below, other.below) {
            (true, true) => own <= of_other,
            (true, false) => own < of_other,
            (false, false) => own == of_other,
            (false, true) => false,
        };
        deep_enough
            && self.host.as_ref().is_none_or(|host| other.host.as_ref() == Some(host))
            && self.from.iter().zip(&other.from).all(same)
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        for segment in &self.from {
            match segment {
                Segment::Name(name) => write!(f, "/{name}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        f.write_str(if self.below {
            "/*"
        } else if self.from.is_empty() {
            "/"
        } else {
            ""
        })
    }
}

/// Finds redirects that no route of the service leads to. A service without routes has one by its name, which is not known here.
pub(crate) fn find_unreachable(manifest: &Manifest, problems: &mut Problems) {
    for redirect in manifest.redirects.iter().filter(|_| !manifest.routes.is_empty()) {
        if !manifest.routes.iter().any(|route| redirect.is_reached_by(route)) {
            problems.push(format!("redirects: no route of the service leads to `{redirect}`; add one to `routes`"));
        }
    }
}

/// Finds redirects whose requests all go to one before them.
pub(crate) fn find_shadowed(manifest: &Manifest, problems: &mut Problems) {
    for (at, redirect) in manifest.redirects.iter().enumerate() {
        let before = manifest.redirects.iter().take(at).find(|before| before.covers(redirect));
        problems.0.extend(before.map(|before| {
            format!("redirects: the one from `{redirect}` is never used, since that from `{before}` is before it; remove it, or write it first")
        }));
    }
}

/// Finds redirects whose targets are redirected without an end. Browsers keep some of them, also once the manifest is mended.
pub(crate) fn find_loops(manifest: &Manifest, problems: &mut Problems) {
    let redirects = &manifest.redirects;
    for redirect in redirects {
        let host = redirect.host.as_deref().unwrap_or_default();
        let segment = |segment: &Segment| match segment {
            Segment::Name(name) => format!("/{name}"),
            Segment::Parameter(_) => "/x".into(),
        };
        let path: String = redirect.from.iter().map(segment).collect();
        let mut path = if redirect.below { format!("{path}/x") } else { path };
        if path.is_empty() {
            path.push('/');
        }
        // More steps than there are redirects: one of them is taken twice.
        let ends = (0..=redirects.len()).any(|_| {
            let next = redirects.iter().find_map(|next| next.location(host, &path, None));
            let target = next.as_ref().and_then(|next| next.to_str().ok()).unwrap_or_default();
            let own = target.split_once("://").map_or(Some(target), |(_, rest)| {
                let rest = rest.strip_prefix(host).filter(|_| !host.is_empty())?;
                rest.starts_with('/').then_some(rest)
            });
            path = own.unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
            path.is_empty()
        });
        if !ends {
            problems
                .push(format!("redirects: the redirect from `{redirect}` leads back to itself, by way of `{path}`"));
        }
    }
}

/// Returns each redirect with its status.
fn view(manifest: &Manifest) -> Option<Value> {
    let shown = |redirect: &Redirect| Value::from(format!("{redirect} ({})", redirect.status.as_u16()));
    let all: Vec<_> = manifest.redirects.iter().map(shown).collect();
    if all.is_empty() { None } else { Some(all.into()) }
}

/// Browsers read `\` as `/`.
fn encoded(text: &str) -> Cow<'_, str> {
    if text.contains('\\') { text.replace('\\', "%5C").into() } else { text.into() }
}

/// Encodes a part of a path so that it stays one value of a query.
fn as_parameter(text: &str) -> Cow<'_, str> {
    /// What ends a value, or has a meaning of its own in one. `%` begins what is encoded already.
    const SPECIAL: &AsciiSet = &CONTROLS.add(b'&').add(b'=').add(b'+').add(b';').add(b'\\').add(b'#').add(b'?');
    utf8_percent_encode(text, SPECIAL).into()
}

fn read(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    const FORM: &str = "write a list, like [{ from = \"/old\", to = \"/new\" }]";
    let items = written.items(FORM).map_err(|_| written.error(FORM));
    let items = problems.take(items).unwrap_or_default();
    if items.len() > MOST {
        problems.push(written.error(format!("{} redirects are more than {MOST}", items.len())));
    }
    manifest.redirects = items.iter().filter_map(|item| redirect(item, problems)).collect();
}

fn redirect(item: &Written<'_>, problems: &mut Problems) -> Option<Redirect> {
    let Some(keys) = item.item() else {
        problems.push(item.error("a redirect is a table, like { from = \"/old\", to = \"/new\" }"));
        return None;
    };
    let (mut from, mut to, mut status, mut host) = (None, None, StatusCode::PERMANENT_REDIRECT, None);
    for key in &keys {
        match key.name.as_str() {
            "from" => from = Some((key, problems.take(key.string("write a path, like \"/old\""))?)),
            "to" => to = Some((key, problems.take(key.string("write a path or URL, like \"/new\""))?)),
            "status" => {
                let number = key.number(300..=399).ok().filter(|number| STATUSES.contains(number));
                let number = number.and_then(|number| StatusCode::from_u16(u16::try_from(number).ok()?).ok());
                status = problems.take(number.ok_or_else(|| key.error("write 301, 302, 303, 307 or 308")))?;
            }
            "host" => host = Some(problems.take(read_host(key))?),
            _ => problems.push(key.unknown("", &KEYS)),
        }
    }
    let (Some((from_key, from)), Some((to_key, to))) = (from, to) else {
        problems.push(item.at("a redirect needs `from` and `to`"));
        return None;
    };
    if from == to {
        problems.push(to_key.at(format!("the redirect from `{from}` leads to itself")));
        return None;
    }
    let (from, below) = problems.take(read_from(from).ok_or_else(|| {
        let end = from.strip_suffix('/').filter(|path| path.len() > 1 && path.starts_with('/'));
        let hint = end.map_or(String::new(), |path| {
            format!("; write `{path}` for this path alone, `{path}/*` for all below it, also `{path}/`")
        });
        from_key.error(format!("`{from}` is not a path like \"/old\", \"/old/{{id}}\" or \"/old/*\"{hint}"))
    }))?;
    let (to, has_query) = problems.take(read_to(to, &from, below).map_err(|wrong| to_key.error(wrong)))?;
    Some(Redirect { host, from, below, to, has_query, status })
}

/// Reads the path of requests, and whether it stands for all below it.
fn read_from(text: &str) -> Option<(Vec<Segment>, bool)> {
    let path = text.strip_prefix('/')?;
    let (path, below) = match path.strip_suffix('*') {
        Some("") => ("", true),
        Some(path) if path.len() > 1 => (path.strip_suffix('/')?, true),
        _ => (path, false),
    };
    let segments = path.split('/').filter(|_| !path.is_empty()).map(Segment::read).collect::<Option<_>>()?;
    Some((segments, below))
}

/// Reads a target, and whether it has a query.
fn read_to(text: &str, from: &[Segment], below: bool) -> Result<(Vec<TargetPart>, bool), String> {
    let wrong = || format!("`{text}` is neither a path like \"/new\" nor a URL like \"https://example.com/new\"");
    let path = match text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
        Some(rest) => rest.find('/').map_or(text.len(), |at| text.len() - rest.len() + at),
        None => 0,
    };
    let plain = text.replace(['{', '}', '*'], "x");
    let sound = plain.parse::<Uri>().is_ok_and(|uri| uri.authority().is_none_or(|own| !own.as_str().contains('@')));
    let doubtful = text.starts_with("//") || text.contains(['\\', '#']) || text.len() > TARGET;
    let (place, tail) = text.split_at_checked(path).ok_or_else(wrong)?;
    if !sound || doubtful || place.contains(['{', '}', '*']) || (path == 0 && !text.starts_with('/')) {
        return Err(wrong());
    }
    let (mut pieces, mut rest) = (vec![TargetPart::Text(place.to_owned())], tail);
    while let Some(at) = rest.find(['{', '*']) {
        let (before, after) = rest.split_at_checked(at).ok_or_else(wrong)?;
        pieces.push(TargetPart::Text(before.to_owned()));
        if let Some(after) = after.strip_prefix('*') {
            if !below || !after.is_empty() {
                return Err(format!("`{text}`: `*` is at the end, and so it must be in `from`"));
            }
            pieces.push(TargetPart::Rest);
            rest = after;
        } else {
            let (name, after) = after.strip_prefix('{').and_then(|after| after.split_once('}')).ok_or_else(wrong)?;
            let same = |segment: &Segment| matches!(segment, Segment::Parameter(own) if own == name);
            let at = from.iter().position(same).ok_or_else(|| format!("`{text}`: there is no {{{name}}} in `from`"))?;
            pieces.push(TargetPart::Segment(at));
            rest = after;
        }
    }
    pieces.push(TargetPart::Text(rest.to_owned()));
    pieces.retain(|piece| *piece != TargetPart::Text(String::new()));
    Ok((pieces, tail.contains('?')))
}

#[cfg(test)]
mod tests;

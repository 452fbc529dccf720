//! The requests of the API under `/v1/`, and the scope that each needs.

use http::Method;
use lodge_manifest::spec::split;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Looking at what the host serves, and how it does.
    Read,
    /// Changing how the host runs what it serves.
    Operate,
    /// Reading and changing the data of services.
    Data,
    /// Changing what a service is.
    Deploy,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needed<'a> {
    pub(super) scope: Scope,
    /// The service that the request is about.
    pub(super) service: Option<&'a str>,
}

/// An action of an operator on a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Disable,
    Enable,
    Unload,
}

/// A request that the API knows. `&str` is the name of a service or version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiRoute<'a> {
    Services,
    Service(&'a str),
    Errors(&'a str),
    Compare(&'a str),
    Act(&'a str, Action),
    Component(&'a str),
    Promote(&'a str),
    Rollback(&'a str),
    Purge(&'a str),
    /// Anything about the data of a service, with the rest of the path.
    ServiceData(&'a str, &'a [&'a str]),
    Data,
    Backup,
    Logs,
    Events,
    Stream,
    Host,
    Cluster,
    LogLevel,
    SetLogLevel,
    Drain,
    OpenApi,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unrouted {
    Path,
    Method,
}

impl Scope {
    /// Returns its name in files of keys.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Data => "data",
            Self::Deploy => "deploy",
        }
    }
}

impl<'a> ApiRoute<'a> {
    /// Finds the route of a request by the parts of its path after `/v1/`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of(method: &Method, parts: &'a [&'a str]) -> Result<Self, Unrouted> {
        let get = |route| if matches!(*method, Method::GET | Method::HEAD) { Ok(route) } else { Err(Unrouted::Method) };
        let by = |wanted, route| if *method == wanted { Ok(route) } else { Err(Unrouted::Method) };
        let post = |route| by(Method::POST, route);
        match *parts {
            ["services"] => get(Self::Services),
            ["services", name] => get(Self::Service(name)),
            ["services", name, "errors"] => get(Self::Errors(name)),
            ["services", name, "compare"] => post(Self::Compare(name)),
            ["services", name, "disable"] => post(Self::Act(name, Action::Disable)),
            ["services", name, "enable"] => post(Self::Act(name, Action::Enable)),
            ["services", name, "unload"] => post(Self::Act(name, Action::Unload)),
            ["services", name, "component"] => by(Method::PUT, Self::Component(name)),
            ["services", name, "promote"] => post(Self::Promote(name)),
            ["services", name, "rollback"] => post(Self::Rollback(name)),
            ["services", name, "purge"] => post(Self::Purge(name)),
            ["services", name, "data", ref rest @ ..] => Ok(Self::ServiceData(name, rest)),
            ["data"] => get(Self::Data),
            ["data", "backup"] => get(Self::Backup),
            ["logs"] => get(Self::Logs),
            ["events"] => get(Self::Events),
            ["stream"] => get(Self::Stream),
            ["host"] => get(Self::Host),
            ["cluster"] => get(Self::Cluster),
            ["log-level"] => get(Self::LogLevel).or_else(|_| by(Method::PUT, Self::SetLogLevel)),
            ["drain"] => post(Self::Drain),
            ["openapi.json"] => get(Self::OpenApi),
            _ => Err(Unrouted::Path),
        }
    }

    /// Returns the names of the query parameters that the request can have.
    pub(super) fn parameters(&self, method: &Method) -> &'static [&'static str] {
        match *self {
            Self::Component(_) => &["percent", "new"],
            Self::Promote(_) => &["force", "digest"],
            Self::Purge(_) => &["path"],
            Self::ServiceData(_, rest) => match (method, rest) {
                (_, []) => &["after"],
                (_, ["keys"]) => &["bucket", "prefix", "limit", "cursor"],
                (&Method::GET | &Method::HEAD, ["entries"]) => &["bucket", "cursor"],
                (&Method::PUT, ["entry"]) => &["bucket", "key", "ttl", "if_absent"],
                (_, ["entry"]) => &["bucket", "key"],
                (&Method::GET | &Method::HEAD, ["dead"]) => &["limit", "after"],
                (_, ["dead"] | ["dead", "retry"]) => &["id", "all"],
                (_, ["dead", "message"]) => &["id"],
                _ => &[],
            },
            Self::Logs => &["service", "tail", "follow"],
            Self::Events => &["follow"],
            Self::Services | Self::Service(_) | Self::Errors(_) | Self::Compare(_) | Self::Act(..) => &[],
            Self::Rollback(_) | Self::Data | Self::Backup | Self::Stream | Self::Host | Self::Cluster => &[],
            Self::LogLevel | Self::SetLogLevel | Self::Drain | Self::OpenApi => &[],
        }
    }

    /// Returns what the request needs.
    pub(super) fn needs(&self) -> Needed<'a> {
        let of = |scope, name| Needed { scope, service: Some(split(name).0) };
        let all = |scope| Needed { scope, service: None };
        match *self {
            Self::Service(name) | Self::Errors(name) | Self::Compare(name) => of(Scope::Read, name),
            Self::Services | Self::Logs | Self::Events | Self::Stream => all(Scope::Read),
            Self::Host | Self::Cluster | Self::LogLevel | Self::OpenApi => all(Scope::Read),
            Self::Act(name, _) | Self::Purge(name) => of(Scope::Operate, name),
            Self::SetLogLevel | Self::Drain => all(Scope::Operate),
            Self::Component(name) | Self::Promote(name) | Self::Rollback(name) => of(Scope::Deploy, name),
            Self::ServiceData(name, _) => of(Scope::Data, name),
            Self::Data | Self::Backup => all(Scope::Data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document names every route, with the scope that it needs.
    #[test]
    fn the_document_has_the_scope_of_each_route() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut scopes = std::collections::BTreeMap::<_, usize>::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let path = path.replace("{name}", "users@2");
            let parts: Vec<_> = path.strip_prefix("/v1/").unwrap().split('/').collect();
            for (method, operation) in methods.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                let method: Method = method.to_uppercase().parse().unwrap();
                let needed = ApiRoute::of(&method, &parts).unwrap_or_else(|_| panic!("{method} {path}")).needs();
                assert_eq!(operation["security"][0]["token"][0], needed.scope.name(), "{method} {path}");
                assert_eq!(needed.service, path.contains("users@2").then_some("users"), "{method} {path}");
                *scopes.entry(needed.scope.name()).or_default() += 1;
            }
        }
        assert_eq!(scopes, [("data", 13), ("deploy", 3), ("operate", 6), ("read", 11)].into(), "routes by scope");
    }

    /// The document names the parameters of every route, and no others.
    #[test]
    fn the_document_has_the_parameters_of_each_route() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let names = |written: &serde_json::Value| -> Vec<String> {
            let written = written["parameters"].as_array().into_iter().flatten();
            let query = written.filter(|parameter| parameter["in"] == "query");
            query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
        };
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            let shown = path.replace("{name}", "users@2");
            let parts: Vec<_> = shown.strip_prefix("/v1/").unwrap().split('/').collect();
            for (method, operation) in methods.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                let method: Method = method.to_uppercase().parse().unwrap();
                let route = ApiRoute::of(&method, &parts).unwrap_or_else(|_| panic!("{method} {path}"));
                let (mut written, mut known) =
                    ([names(methods), names(operation)].concat(), route.parameters(&method).to_vec());
                written.sort_unstable();
                known.sort_unstable();
                assert_eq!(written, known, "{method} {path}");
                seen += known.len();
            }
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn other_methods_and_paths() {
        for (method, path, expected) in [
            (Method::POST, "services", Unrouted::Method),
            (Method::GET, "drain", Unrouted::Method),
            (Method::POST, "services/a/component", Unrouted::Method),
            (Method::DELETE, "log-level", Unrouted::Method),
            (Method::GET, "", Unrouted::Path),
            (Method::GET, "services/a/b", Unrouted::Path),
            (Method::GET, "services/a/promote/b", Unrouted::Path),
        ] {
            let parts: Vec<_> = path.split('/').collect();
            assert_eq!(ApiRoute::of(&method, &parts), Err(expected), "{method} {path}");
        }
    }
}

//! The settings above the first section of `lodge.toml`.

use std::net::SocketAddr;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::key::{Key, count, network, size, word};
use super::{Config, LogFormat, ServiceHosts};
use crate::headers::IDENTITY;

/// `log_requests = true` is a natural mistake in TOML.
pub(super) const SWITCH: [(&str, bool); 4] = [("off", false), ("on", true), ("false", false), ("true", true)];

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Config>] = &[
    Key {
        name: "listen",
        default: "127.0.0.1:8080",
        help: "address of the listener for services; port 0 takes a free one, and `:8080` is port 8080 of every IPv4 interface",
        set: |c, text| address(text).map(|value| c.listen = value),
    },
    Key {
        name: "admin",
        default: "127.0.0.1:9090",
        help: "address of the admin listener: health, metrics, the page, the API; or `off`",
        set: |c, text| {
            c.admin = if text == "off" { None } else { Some(address(text)?) };
            Ok(())
        },
    },
    Key {
        name: "admin_token",
        default: "",
        help: "the token that the API requires, 16 or more printable characters; without one, only this machine may use the API",
        set: |c, text| {
            c.admin_token = (!text.is_empty()).then(|| text.to_owned());
            let sound = text.is_empty() || (text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic()));
            if sound { Ok(()) } else { Err("must be 16 or more printable characters without spaces".into()) }
        },
    },
    Key {
        name: "admin_keys",
        default: "",
        help: "a file with API keys that the API takes as well, each with its scopes; read again when it changes; with it, the API requires a key or the token from everybody",
        set: |c, text| {
            c.admin_keys = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "guests",
        default: "guests",
        help: "directory to serve; the same as the argument DIR",
        set: |c, text| {
            c.guests = text.into();
            if text.is_empty() { Err("must name a directory".into()) } else { Ok(()) }
        },
    },
    Key {
        name: "shared_config",
        default: "",
        help: "a file with a `[config]` as in a manifest, whose values services may refer to: `{ host = \"KEY\" }`",
        set: |c, text| {
            c.shared_config = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "log_format",
        default: "text",
        help: "`text` for people, `json` for machines",
        set: |c, text| {
            let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            word(text, &words).map(|value| c.log_format = value)
        },
    },
    Key {
        name: "log_level",
        default: "info",
        help: "error, warn, info, debug, or a filter such as `lodge=debug`",
        set: |c, text| {
            c.log_level = text.to_owned();
            log_filter(text).map(drop)
        },
    },
    Key {
        name: "log_requests",
        default: "off",
        help: "`on` writes a line for every request; without it, followers of the log still see up to 200 requests per second",
        set: |c, text| word(text, &SWITCH).map(|value| c.log_requests = value),
    },
    Key {
        name: "log_headers",
        default: "",
        help: "request headers that the line of a request contains, comma-separated",
        set: |c, text| {
            let names =
                words(text).map(|name| name.parse().map_err(|_| format!("`{name}` is not the name of a header")));
            c.log_headers = names.collect::<Result<_, String>>()?;
            // The line has the headers as the client sent them, and the host removes these from a client.
            if let Some(name) = c.log_headers.iter().find(|name| name.as_str().starts_with(IDENTITY)) {
                return Err(format!("`{name}` is for services: a client may have sent any value"));
            }
            Ok(())
        },
    },
    Key {
        name: "log_mask",
        default: "token,access_token,refresh_token,id_token,api_key,key,password,secret,client_secret,code,assertion,client_assertion,sig,signature",
        help: "query parameters (also those of a Referer) and headers whose values the log masks, in addition to Authorization, X-Api-Key and cookies",
        set: |c, text| {
            c.log_mask = words(text).map(str::to_owned).collect();
            Ok(())
        },
    },
    Key {
        name: "trusted_proxies",
        default: "",
        help: "networks (CIDR), comma-separated, whose `Forwarded`, `X-Forwarded-*` and `X-Request-Id` are believed",
        set: |c, text| {
            c.trusted_proxies = words(text).map(network).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        name: "auth_failures",
        default: "30",
        help: "failed attempts at credentials per minute and client address (each /64 of IPv6); further requests that need credentials are 429; `0` allows any number",
        set: |c, text| count(text, 0..=1_000_000).map(|value| c.auth_failures = value),
    },
    Key {
        name: "service_hosts",
        default: "local",
        help: "which clients may use the hosts `NAME.localhost`: `local` clients that come through no proxy, `all`, or `off`",
        set: |c, text| {
            let words = [("local", ServiceHosts::Local), ("all", ServiceHosts::All), ("off", ServiceHosts::Off)];
            word(text, &words).map(|value| c.service_hosts = value)
        },
    },
    Key {
        name: "memory",
        default: "auto",
        help: "memory that the process may use; `auto` is the limit of its cgroup, or the memory of the machine. By default `listener.memory` is at most a quarter of it, `listener.unsent`, `responses.memory`, `engine.resident` and the buffers of `upstreams.connections` an eighth, and `listener.compression` and `listener.validation` a sixteenth; `engine.instances` is at most one for each 256 KiB, and `engine.warm` one for each MiB",
        set: |c, text| {
            c.memory = if text == "auto" { None } else { Some(size(text, 32 << 20..=1 << 50)?) };
            Ok(())
        },
    },
];

/// Parses a filter of the log: a level, or levels of modules.
///
/// # Errors
/// What was expected. A misspelt level is an error; `tracing` itself would take it for the name of a module.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    let known = |word: &str| word.parse::<LevelFilter>().is_ok();
    let sound = text.split(',').all(|part| known(part.rsplit('=').next().unwrap_or_default().trim()));
    text.parse().ok().filter(|_| sound).ok_or_else(|| {
        format!("`{text}` is not a level; write off, error, warn, info, debug, or a filter such as lodge=debug")
    })
}

/// Splits a comma-separated list, without empty items.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// Parses an address. As in other servers, `:8080` is every IPv4 interface, and `localhost` this machine.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let whole = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None if text.starts_with(':') => format!("0.0.0.0{text}"),
        None => text.to_owned(),
    };
    whole.parse().map_err(|_| match text.parse::<u16>() {
        Ok(port) => format!(
            "`{text}` is not an address; write 127.0.0.1:{port} for this machine, or 0.0.0.0:{port} for every interface"
        ),
        Err(_) => format!("`{text}` is not an address; write it like 127.0.0.1:8080 or [::1]:8080"),
    })
}

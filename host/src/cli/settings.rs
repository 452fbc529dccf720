//! The settings of a command: those of flags, environment variables and `lodge.toml` together.

use std::path::PathBuf;

use clap::ArgMatches;

use super::machine::Machine;
use super::out::{self, CliError, notice};
use super::text;
use lodge_base::config::key::nearest;
use lodge_base::config::{self, Origin, Resolved, Source};
use lodge_base::files;
use lodge_runtime::code_cache;

/// The most bytes of a configuration file.
const MAX_FILE: u64 = 1 << 20;

/// Returns the settings of a command with these arguments.
///
/// # Errors
/// All problems, each with the flag, variable or line that has it.
pub(super) fn resolve(matches: &ArgMatches) -> Result<Resolved, Vec<String>> {
    let (environment, unknown) = config::read_environment(std::env::vars());
    for variable in unknown.iter().filter(|variable| *variable != "LODGE_CONFIG") {
        // Without the prefix, which would make every name similar.
        let names: Vec<_> = config::described().map(|(name, ..)| config::env_name(&name)).collect();
        let names = names.iter().filter_map(|name| name.strip_prefix("LODGE_"));
        let near = variable.strip_prefix("LODGE_").and_then(|variable| nearest(variable, names));
        let hint = near.map_or(String::new(), |near| format!("; did you mean LODGE_{near}?"));
        notice(&format!("{variable} is not a setting of Lodge, and is ignored{hint}"));
    }
    let flags: Source =
        config::described().filter_map(|(name, ..)| Some((name.clone(), text(matches, &name)?.clone()))).collect();
    let (file, text, name) = read_file(matches)?;
    let read = (!name.is_empty()).then(|| PathBuf::from(&name));
    let sources = [(Origin::File, file), (Origin::Environment, environment), (Origin::Flag, flags)];
    let (otel, mut problems) = match config::otel::read(std::env::vars(), &sources) {
        Ok(otel) => (otel, Vec::new()),
        Err(problems) => (Source::new(), problems),
    };
    let [file, environment, flags] = sources;
    let machine = Machine::read();
    let known = machine.memory.map(|bytes| ("memory".into(), bytes.max(32 << 20).to_string()));
    let found = (Origin::Default, known.into_iter().collect());
    match config::resolve(&[found, (Origin::Otel, otel), file, environment, flags]) {
        Ok(mut resolved) => {
            problems.extend(code_cache::misplaced(&resolved.config));
            let set = resolved.origin("memory").is_some_and(|origin| origin != Origin::Default);
            let set = resolved.config.memory.filter(|_| set).map(|bytes| bytes as u64);
            resolved.config.program.machine = Some(machine.describe(set));
            resolved.config.program.file = read.map(|path| std::path::absolute(&path).unwrap_or(path));
            if problems.is_empty() { Ok(resolved) } else { Err(problems) }
        }
        Err(more) => {
            problems.extend(more.into_iter().map(|problem| located(&name, &text, problem)));
            Err(problems)
        }
    }
}

/// Adds the line of its key to a problem of `lodge.toml`, the name of the file, and where a key of manifests belongs.
fn located(name: &str, file: &str, problem: String) -> String {
    let Some(rest) = problem.strip_prefix("lodge.toml: ") else { return problem };
    let key = rest.split(':').next().unwrap_or(rest);
    let line = lodge_manifest::position(file, key);
    let head = key.split('.').next().unwrap_or(key);
    let of_host = config::described().any(|(known, ..)| known.split('.').next() == Some(head));
    let of_manifest = rest.contains(": unknown key") && !of_host && lodge_manifest::misplaced(key).is_some();
    // What resembles a section of manifests is not meant.
    let rest = if of_manifest { rest.split("; ").next().unwrap_or(rest) } else { rest };
    let hint = match (of_manifest, key.contains('.')) {
        (true, true) => format!("; [{head}] is a section of a manifest, such as guests/users.toml"),
        (true, false) => format!("; `{key}` is a key of a manifest, such as guests/users.toml"),
        (false, _) => String::new(),
    };
    format!("{name}{}{rest}{hint}", if line.is_empty() { ": ".into() } else { format!(" {line}") })
}

/// Reads `lodge.toml`, or the file that `--config` names. Returns its settings, its text and its name.
fn read_file(matches: &ArgMatches) -> Result<(Source, String, String), Vec<String>> {
    let named = text(matches, "config").cloned().or_else(|| std::env::var("LODGE_CONFIG").ok());
    let path = PathBuf::from(named.as_deref().unwrap_or("lodge.toml"));
    match files::read_text(&path, MAX_FILE) {
        Ok(text) => match config::read_file(&text) {
            Ok(source) => Ok((source, text, path.display().to_string())),
            Err(problem) => Err(vec![format!("{}: {problem}", path.display())]),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Default::default()),
        Err(error) => Err(vec![format!("{}: {error}", path.display())]),
    }
}

/// Writes all settings, and where each is from.
pub(super) fn print(resolved: &Resolved) -> Result<(), CliError> {
    let width = resolved.values.iter().map(|(name, text, _)| name.len() + text.len()).max().unwrap_or(0) + 5;
    for (name, text, origin) in &resolved.values {
        let text = if config::is_secret(name) && !text.is_empty() { "(a secret)" } else { text };
        let setting = format!("{name} = \"{text}\"");
        out::line(&format!("{setting:width$} # {origin}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_manifests_are_told() {
        for (key, near, expected) in [
            (
                "auth.api_keys",
                "; did you mean `auth_failures`?",
                "l.toml 2: auth.api_keys: unknown key; [auth] is a section of a manifest",
            ),
            ("routes", "", "l.toml 2: routes: unknown key; `routes` is a key of a manifest"),
            (
                "limits.cpus",
                "; did you mean `limits.cpu`?",
                "l.toml 2: limits.cpus: unknown key; did you mean `limits.cpu`?",
            ),
        ] {
            let text = match key.split_once('.') {
                Some((section, key)) => format!("[{section}]\n{key} = 1"),
                None => format!("\n{key} = 1"),
            };
            let told = located("l.toml", &text, format!("lodge.toml: {key}: unknown key{near}"));
            assert!(told.replace("line 2: ", "2: ").starts_with(expected), "{told}");
        }
    }
}

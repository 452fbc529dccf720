//! Credentials of registries, as docker and podman store them: in a file `config.json`, or in a program that the file names.
//!
//! The file is read for every pull, so that what other programs renew takes effect. A program runs with a time limit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::exchange::shown;
use lodge_base::config::pull::{Credentials, Pull};
use lodge_base::files;

/// The most bytes of the file.
const MOST_FILE: u64 = 1 << 20;

/// The most bytes that a program writes.
const MOST_OUTPUT: u64 = 256 << 10;

/// The time that a program may take.
const PROGRAM: Duration = Duration::from_secs(10);

/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// What a program says when it knows nothing of a registry.
const UNKNOWN: &str = "credentials not found";

/// Credentials of a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A user and its password.
    Password {
        /// Its name.
        user: String,
        /// Its password.
        password: String,
    },
    /// A token for the server of tokens.
    IdentityToken(String),
}

/// The part of docker's `config.json` that is about registries.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a program returns.
#[derive(Deserialize)]
struct StoredCredential {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Returns the credentials for a repository of a registry, if there are any.
///
/// # Errors
/// One line, if the file or the program cannot be read.
pub(super) async fn find(settings: &Pull, registry: &str, repository: &str) -> Result<Option<Credential>, String> {
    let (path, named) = match &settings.credentials {
        Credentials::Off => return Ok(None),
        Credentials::At(path) => (path.clone(), true),
        Credentials::Auto => match usual() {
            Some(path) => (path, false),
            None => return Ok(None),
        },
    };
    let problem = |why: String| format!("credentials of registries in {}: {why}", path.display());
    let from = path.clone();
    let read = spawn_blocking(move || files::read_text(&from, MOST_FILE)).await.map_err(|error| error.to_string())?;
    let text = match read {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(None),
        Err(error) => return Err(problem(error.to_string())),
    };
    // A message of the parser could contain a part of a secret.
    let wrong = |error: serde_json::Error| problem(format!("line {} is not docker's config.json", error.line()));
    let file: File = serde_json::from_str(&text).map_err(wrong)?;
    let own = file.helpers.iter().find(|(key, _)| bare(key) == registry).map(|(_, program)| program);
    if let Some(program) = own.or(file.store.as_ref())
        && let Some(found) = ask(program, registry, PROGRAM).await.map_err(problem)?
    {
        return Ok(Some(found));
    }
    match best(&file.auths, registry, repository) {
        Some(entry) => entry.credential().map_err(problem),
        None => Ok(None),
    }
}

/// Where docker keeps the file.
fn usual() -> Option<PathBuf> {
    let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = named("DOCKER_CONFIG").or_else(|| Some(named("HOME")?.join(".docker")))?;
    Some(directory.join("config.json"))
}

/// Returns the entry with the longest name that is that of the registry, or of a repository that contains this one.
fn best<'a>(entries: &'a BTreeMap<String, Entry>, registry: &str, repository: &str) -> Option<&'a Entry> {
    let fits = |key: &str| match key.split_once('/') {
        None => key == registry,
        Some((of, path)) => {
            let rest = repository.strip_prefix(path).filter(|_| of == registry);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let entries = entries.iter().filter(|(_, entry)| !entry.is_empty()).map(|(key, entry)| (bare(key), entry));
    entries.filter(|(key, _)| fits(key)).max_by_key(|(key, _)| key.len()).map(|(_, entry)| entry)
}

/// The name of an entry without its scheme, and without the version of an old API, which docker's own names end with. The host
/// is in lower case, as in references.
fn bare(key: &str) -> String {
    let key = ["https://", "http://"].iter().find_map(|scheme| key.strip_prefix(scheme)).unwrap_or(key);
    let key = key.trim_end_matches('/');
    // A repository may have such a name as well.
    let host = ["/v1", "/v2"].iter().find_map(|version| key.strip_suffix(version)).filter(|host| !host.contains('/'));
    let key = host.unwrap_or(key);
    let (host, path) = key.split_at(key.find('/').unwrap_or(key.len()));
    host.to_ascii_lowercase() + path
}

impl Entry {
    /// An entry without values says that a program has them.
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.identitytoken.is_empty() && self.username.is_empty()
    }

    fn credential(&self) -> Result<Option<Credential>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            return Ok(Some(Credential::Password { user: self.username.clone(), password: self.password.clone() }));
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or("an `auth` is not `USER:PASSWORD` in base64")?;
        // Docker pads passwords with zeros.
        let password = password.trim_end_matches('\0');
        Ok(Some(Credential::Password { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// Asks the program `docker-credential-NAME` for the credentials of a registry.
async fn ask(name: &str, registry: &str, time: Duration) -> Result<Option<Credential>, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(format!("`{}` is not the name of a program", shown(name)));
    }
    stored(&format!("docker-credential-{name}"), registry, time).await
}

async fn stored(program: &str, registry: &str, time: Duration) -> Result<Option<Credential>, String> {
    let answer = timeout(time, run(Path::new(program), registry)).await;
    let late = |_| format!("{program} has not ended within {}", humantime::format_duration(time));
    let (success, output) = answer.map_err(late)?.map_err(|error| format!("{program}: {error}"))?;
    // The output may be secret, also where the program fails, so that no message quotes it.
    if !success {
        let why = format!("{program} fails; run `echo {registry} | {program} get` to see why");
        return if output.starts_with(UNKNOWN.as_bytes()) { Ok(None) } else { Err(why) };
    }
    let StoredCredential { user, secret } =
        serde_json::from_slice(&output).map_err(|_| format!("{program} returns no credentials"))?;
    Ok(Some(match user.as_str() {
        TOKEN_USER => Credential::IdentityToken(secret),
        _ => Credential::Password { user, password: secret },
    }))
}

/// A program and those that it has started. They are killed, unless the program has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Returns whether the program succeeded, and the beginning of its output. The program ends with the future.
async fn run(program: &Path, registry: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.process_group(0).spawn()?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read its input is no error.
        let _ = input.write_all(registry.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(from) = child.stdout.take() {
        from.take(MOST_OUTPUT).read_to_end(&mut output).await?;
    }
    let success = child.wait().await?.success();
    group.0 = None;
    Ok((success, output))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn shown(found: Result<Option<Credential>, String>) -> String {
        match found {
            Ok(None) => "none".into(),
            Ok(Some(Credential::Password { user, password })) => format!("{user}:{password}"),
            Ok(Some(Credential::IdentityToken(token))) => format!("token {token}"),
            Err(why) => why,
        }
    }

    async fn found(text: &str, registry: &str, repository: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let settings = Pull { credentials: Credentials::At(path), ..Pull::default() };
        shown(find(&settings, registry, repository).await)
    }

    #[tokio::test]
    async fn entries_of_the_file() {
        let text = r#"{"auths": {
            "https://r.example/v1/": {"auth": "YTpiOmM="},
            "r.example/team": {"username": "t", "password": "u"},
            "r.example/team/deep": {"identitytoken": "i"},
            "empty.example": {},
            "bad.example": {"auth": "!"}
        }, "other": [1]}"#;
        for (registry, repository, expected) in [
            ("r.example", "users", "a:b:c"),
            ("r.example", "teams/users", "a:b:c"),
            ("r.example", "team/users", "t:u"),
            ("r.example", "team/deep", "token i"),
            ("r.example:5000", "users", "none"),
            ("empty.example", "users", "none"),
            ("other.example", "users", "none"),
        ] {
            assert_eq!(found(text, registry, repository).await, expected, "{registry}/{repository}");
        }
        assert!(found(text, "bad.example", "users").await.contains("not `USER:PASSWORD`"));
        // A repository that is called like a version of the API, and one that is called like that below it.
        let text = r#"{"auths": {"R.example/team/v1": {"auth": "YTpi"}, "R.example/v2/": {"auth": "Yzpk"}}}"#;
        for (repository, expected) in [("team/v1", "a:b"), ("team/users", "c:d"), ("v1", "c:d")] {
            assert_eq!(found(text, "r.example", repository).await, expected, "{repository}");
        }
        let secret = found("{\"auths\": {\"r\": {\"auth\": secret}}}", "r", "users").await;
        assert!(secret.contains("line 1") && !secret.contains("secret"), "{secret}");
        let settings = Pull { credentials: Credentials::At("nowhere".into()), ..Pull::default() };
        assert!(find(&settings, "r", "users").await.is_err());
        let off = Pull { credentials: Credentials::Off, ..Pull::default() };
        assert!(matches!(find(&off, "r", "users").await, Ok(None)));
    }

    /// A program is run without a shell, and ended when it takes too long.
    #[tokio::test]
    async fn programs_have_a_time_limit() {
        let directory = tempfile::tempdir().unwrap();
        let program = |text: &str| {
            let path = directory.path().join(format!("p{}", text.len()));
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            path
        };
        let says = program(r#"read -r of <&0 || true; echo "$1 $of""#);
        assert_eq!(run(&says, "r.example\n").await.unwrap(), (true, b"get r.example\n".to_vec()));
        let endless = program("yes");
        let (success, output) = timeout(PROGRAM, run(&endless, "r")).await.unwrap().unwrap();
        assert_eq!((success, output.len() as u64), (false, MOST_OUTPUT));
        // With what it has started.
        let pid = directory.path().join("pid");
        let silent = program(&format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display()));
        let started = async {
            while !pid.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = run(&silent, "r") => panic!("it ends"),
            started = timeout(PROGRAM, started) => started.unwrap(),
        }
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim());
        let ended = async {
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PROGRAM, ended).await.unwrap();
        // It has said a secret, and failed.
        let path = directory.path().join("docker-credential-talks");
        std::fs::write(&path, "#!/bin/sh\necho s3cret\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let problem = stored(&path.display().to_string(), "r", PROGRAM).await.map(|_| ()).unwrap_err();
        assert!(problem.contains("talks fails") && !problem.contains("s3cret"), "{problem}");
        assert!(ask("../x", "r", PROGRAM).await.is_err_and(|why| why.contains("not the name")));
        assert!(ask("no-such-program", "r", PROGRAM).await.is_err());
    }
}

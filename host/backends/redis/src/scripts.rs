//! The Lua scripts. Each runs as one step: nothing else happens in Redis meanwhile.

use redis::{Cmd, ErrorKind, Pipeline, ServerErrorKind, Value, cmd};

use lodge_remote::LinkFailure;

use crate::connection::RedisConnection;
use crate::reply::failed;

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Write,
    Read,
    List,
    Buckets,
    Used,
    Attempt,
    Renew,
    Subscribe,
    Unsubscribe,
    Publish,
    Receive,
    Settle,
    Status,
    Dead,
    EndDead,
}

/// All scripts, in the order of their declaration.
pub(crate) const ALL: [Script; 15] = [
    Script::Write,
    Script::Read,
    Script::List,
    Script::Buckets,
    Script::Used,
    Script::Attempt,
    Script::Renew,
    Script::Subscribe,
    Script::Unsubscribe,
    Script::Publish,
    Script::Receive,
    Script::Settle,
    Script::Status,
    Script::Dead,
    Script::EndDead,
];

const COMMON: &str = include_str!("scripts/common.lua");
const USAGE: &str = include_str!("scripts/usage.lua");
const MESSAGES: &str = include_str!("scripts/messages/common.lua");

impl Script {
    /// Its text.
    pub(crate) fn source(self) -> String {
        let parts: &[&str] = match self {
            Script::Write => &[COMMON, USAGE, include_str!("scripts/write.lua")],
            Script::Read => &[COMMON, include_str!("scripts/read.lua")],
            Script::List => &[COMMON, include_str!("scripts/list.lua")],
            Script::Buckets => &[COMMON, include_str!("scripts/buckets.lua")],
            Script::Used => &[COMMON, USAGE, include_str!("scripts/used.lua")],
            Script::Attempt => &[COMMON, include_str!("scripts/attempt.lua")],
            Script::Renew => &[COMMON, include_str!("scripts/renew.lua")],
            Script::Subscribe => &[COMMON, MESSAGES, include_str!("scripts/messages/subscribe.lua")],
            Script::Unsubscribe => &[COMMON, MESSAGES, include_str!("scripts/messages/unsubscribe.lua")],
            Script::Publish => &[COMMON, MESSAGES, include_str!("scripts/messages/publish.lua")],
            Script::Receive => &[COMMON, MESSAGES, include_str!("scripts/messages/receive.lua")],
            Script::Settle => &[COMMON, MESSAGES, include_str!("scripts/messages/settle.lua")],
            Script::Status => &[COMMON, MESSAGES, include_str!("scripts/messages/status.lua")],
            Script::Dead => &[COMMON, MESSAGES, include_str!("scripts/messages/dead.lua")],
            Script::EndDead => &[COMMON, MESSAGES, include_str!("scripts/messages/end_dead.lua")],
        };
        parts.concat()
    }
}

/// Arguments of a script.
pub(crate) type Arguments<'a> = [&'a [u8]];

fn command(name: &str, script: &str, prefix: &str, arguments: &Arguments<'_>) -> Cmd {
    let mut command = cmd(name);
    command.arg(script).arg(1).arg(prefix);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

/// Runs a script in a namespace.
pub(crate) async fn run(
    connection: &RedisConnection,
    script: Script,
    prefix: &str,
    arguments: &Arguments<'_>,
) -> Result<Value, LinkFailure> {
    let mut server = connection.server.clone();
    let loaded = command("EVALSHA", connection.digest(script as usize), prefix, arguments);
    match loaded.query_async(&mut server).await {
        // `SCRIPT FLUSH` has removed it. Nothing was done.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            let loading = command("EVAL", &script.source(), prefix, arguments);
            loading.query_async(&mut server).await.map_err(|error| failed(connection, &error))
        }
        result => result.map_err(|error| failed(connection, &error)),
    }
}

/// Runs a script several times, each as a step of its own.
pub(crate) async fn run_many(
    connection: &RedisConnection,
    script: Script,
    prefix: &str,
    runs: &[Vec<&[u8]>],
) -> Result<Vec<Value>, LinkFailure> {
    let mut pipeline = Pipeline::with_capacity(runs.len());
    for (index, arguments) in runs.iter().enumerate() {
        // The first one loads the script for the others, should it not be there.
        pipeline.add_command(match index {
            0 => command("EVAL", &script.source(), prefix, arguments),
            _ => command("EVALSHA", connection.digest(script as usize), prefix, arguments),
        });
    }
    pipeline.query_async(&mut connection.server.clone()).await.map_err(|error| failed(connection, &error))
}

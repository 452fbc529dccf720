//! What statements may do. SQLite asks while it prepares a statement.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::mutex::lock;

/// Pragmas that are allowed with and without a value.
const OPEN: &[&str] = &[
    "analysis_limit",
    "application_id",
    "collation_list",
    "data_version",
    "defer_foreign_keys",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "optimize",
    "quick_check",
    "recursive_triggers",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Pragmas that may be read.
const READABLE: &[&str] = &[
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "compile_options",
    "encoding",
    "freelist_count",
    "journal_mode",
    "journal_size_limit",
    "locking_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "schema_version",
    "synchronous",
    "temp_store",
    "wal_autocheckpoint",
];

/// Modules of virtual tables.
const MODULES: &[&str] = &["fts5", "rtree", "rtree_i32"];

/// Functions that are not allowed.
const FUNCTIONS: &[&str] = &["load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"];

/// What was denied last, in words.
pub(super) type LastDenial = Arc<Mutex<Option<&'static str>>>;

/// Lets SQLite ask for each action, and returns what was denied last.
pub(super) fn authorize(connection: &mut Connection) -> rusqlite::Result<LastDenial> {
    let denied = LastDenial::default();
    let last = Arc::clone(&denied);
    connection.authorizer(Some(move |context: AuthContext<'_>| match refusal(&context.action) {
        None => Authorization::Allow,
        Some(why) => {
            *lock(&last) = Some(why);
            Authorization::Deny
        }
    }))?;
    Ok(denied)
}

/// Why an action is denied, if it is.
fn refusal(action: &AuthAction<'_>) -> Option<&'static str> {
    let among = |list: &[&str], name: &str| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    match action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            Some("ATTACH, DETACH and VACUUM are not available: a database reaches no other file")
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            // What every library sends; the database is in this mode already.
            let is_wal = pragma_value.is_some_and(|value| value.eq_ignore_ascii_case("wal"));
            let allowed = among(OPEN, pragma_name)
                || among(READABLE, pragma_name) && pragma_value.is_none()
                || is_wal && pragma_name.eq_ignore_ascii_case("journal_mode");
            (!allowed).then_some("this PRAGMA is not available: the host has set up the connection")
        }
        AuthAction::CreateVtable { module_name, .. } => {
            (!among(MODULES, module_name)).then_some("this kind of virtual table is not available; fts5 and rtree are")
        }
        AuthAction::Function { function_name } => {
            among(FUNCTIONS, function_name).then_some("this function is not available: it reaches beyond the database")
        }
        AuthAction::Unknown { .. } => Some("this kind of statement is not available"),
        _ => None,
    }
}

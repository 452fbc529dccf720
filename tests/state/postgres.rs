//! Promise: a service with `[postgres]` uses the databases that it names, and no other. A request leaves nothing in a connection, a
//! changed URL needs no restart, and a host that has no backend says so.

use crate::harness::host;

pub(super) const CONFIG: &str =
    "config.database = { file = 'database.url', secret = true }\npostgres.databases = 'database'\n";

/// Without the feature, the service is refused, and the refusal says what to build.
#[cfg(not(feature = "postgres"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_the_backend_says_so() {
    let setup = host(&["postgres"]).file("database.url", b"postgres://me@127.0.0.1:1/x");
    let host = setup.manifest("postgres", CONFIG).start().await;
    let refusals = host.refusals().join("\n");
    assert!(
        refusals.contains("this program has no backend for PostgreSQL; build it with `--features postgres`"),
        "{refusals}"
    );
}

#[cfg(feature = "postgres")]
pub(super) mod with_postgres {
    use super::*;
    use std::time::{Duration, Instant};

    use crate::harness::postgres::Postgres;
    use crate::harness::{Process, free_port, get, until, wasm};
    use crate::state::sqlite::{error, ok, path, run};

    /// Waits until `condition` is true.
    pub(in crate::state) async fn soon(what: &str, condition: impl AsyncFn() -> bool) {
        let start = Instant::now();
        while !condition().await {
            assert!(start.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn services_use_the_databases_that_they_name() {
        let Some(server) = Postgres::start() else { return };
        let url = server.url("postgres");
        let setup = host(&["postgres"]).named("postgres", "other").named("postgres", "kept");
        let setup = setup.file("database.url", url.as_bytes()).manifest("postgres", CONFIG);
        let setup = setup.manifest("kept", &format!("isolation = 'service'\nlimits.wall = '2s'\n{CONFIG}"));
        let host = setup.manifest("other", "config.database = { file = 'database.url', secret = true }").start().await;
        soon("the server answers", async || run(&host, "postgres/v3/database", "SELECT 1").await.0 == 200).await;

        // All interfaces, by the key and by the URL.
        for (at, rows) in [
            ("v2/database", "a:int32,b:str,c:other,d:binary\nInt32(7),t:grün,Unsupported,b:00ff"),
            ("v3/url", "a:int32,b:str,c:date,d:binary\nInt32(7),t:grün,Date((2024, 2, 29)),b:00ff"),
            ("v4/url", "a:int32,b:str,c:date,d:binary\nInt32(7),t:grün,Date((2024, 2, 29)),b:00ff"),
        ] {
            let statement =
                "SELECT $1::int AS a, $2::text AS b, '2024-02-29'::date AS c, $3::bytea AS d^i:7^t:grün^b:00ff";
            assert_eq!(ok(&host, &format!("postgres/{at}"), statement).await, rows);
        }
        let table =
            "!CREATE TABLE t (day date, at timestamptz)|!INSERT INTO t VALUES ($1, $2), ($1, NULL)^d:2024-2-29^s:1";
        assert_eq!(ok(&host, "postgres/v3/database", table).await, "2");
        let rows = ok(&host, "postgres/v3/database", "SELECT * FROM t").await;
        let day = "Date((2024, 2, 29))";
        assert_eq!(rows, format!("day:date,at:datetime\n{day},Datetime((1970, 1, 1, 0, 0, 1, 0));{day},n"));
        let wrong = error(&host, "postgres/v3/database", "SELECT absent").await;
        assert!(wrong.contains("QueryFailed") && wrong.contains("SQLSTATE 42703"), "{wrong}");
        let wrong = error(&host, "postgres/v3/database", "SELECT $1::int^t:x").await;
        assert!(wrong.contains("invalid input syntax for type integer"), "{wrong}");

        // What is not named is denied, whatever the guest knows of it.
        for at in ["other/v3/database", "other/v4/url", "postgres/v4/else", "postgres/v2/"] {
            let denied = error(&host, at, "SELECT 1").await;
            assert!(denied.contains("the manifest of the service grants no such database"), "{at}: {denied}");
        }

        // An open transaction ends with its request, also where the guest keeps its connection.
        ok(&host, "kept/kept/database", "!CREATE TABLE kept (v int)").await;
        for end in ["", "|SELECT absent", "|SELECT pg_sleep(60)"] {
            let (status, _) =
                run(&host, "kept/kept/database", &format!("!BEGIN|!INSERT INTO kept VALUES (1){end}")).await;
            assert!([200, 500, 504].contains(&status), "{status}");
            assert_eq!(ok(&host, "kept/kept/database", "SELECT count(*) FROM kept").await, "count:int64\nInt64(0)");
        }
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        soon("it is cancelled", async || ok(&host, "postgres/v3/database", sleeping).await == "count:int64\nInt64(0)")
            .await;

        // Another URL holds for the next requests.
        ok(&host, "postgres/v3/database", "!CREATE DATABASE second").await;
        let file = host.directory().join("database.url");
        std::fs::write(file.with_extension("new"), server.url("second")).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
        let current = "SELECT current_database()::text AS d";
        soon("the URL is read", async || ok(&host, "postgres/v3/url", current).await == "d:str\nt:second").await;
    }

    /// A server that is away fails the statements of its service, which learns nothing of it; the log says which key and why.
    #[tokio::test(flavor = "multi_thread")]
    async fn outages_are_explained_to_operators() {
        let directory = tempfile::tempdir().unwrap();
        let away = format!("postgres://me:canary@127.0.0.1:{}/x?sslmode=disable", free_port());
        for (name, url) in [("away", away.as_str()), ("wrong", "mysql://me:canary@db/x")] {
            std::fs::copy(wasm("postgres"), directory.path().join(format!("{name}.wasm"))).unwrap();
            std::fs::write(directory.path().join(format!("{name}.url")), url).unwrap();
            let manifest = CONFIG.replace("database.url", &format!("{name}.url"));
            std::fs::write(directory.path().join(format!("{name}.toml")), manifest).unwrap();
        }
        let host = Process::serve(directory.path(), &[]).await;
        for (name, reason) in [
            ("away", "its database `database` is unavailable: connection refused: start the server"),
            ("wrong", "its database `database` is unavailable: the URL must begin with postgres:// or postgresql://"),
        ] {
            let response = get(host.address, &path(&format!("{name}/v3/url"), "SELECT 1")).await;
            let text = response.text();
            assert_eq!((response.status, text.contains("the database cannot be reached")), (500, true), "{text}");
            assert!(!text.contains(reason) && !text.contains("canary"), "{text}");
            let logged = || host.log().lines().any(|line| line.contains(reason) && line.contains(name));
            until(reason, logged).await;
        }
        assert!(!host.log().contains("canary"), "{}", host.log());
    }
}

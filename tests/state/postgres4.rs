//! Promise: components that import `spin:postgres@4` as released (4.0.0, 4.1.0 or 4.2.0) use the databases that `[postgres]` names. Every
//! type is mapped exactly, async functions have the bounds of the others, and what a guest drops is cancelled.

use super::sqlite::error;
use crate::directory::refused_files::renamed;
use crate::harness::{host, wasm};

/// A refusal of another version names those that Lodge has.
#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_linked_are_named() {
    let (known, newer) = ("spin:postgres/postgres@4.2.0", "spin:postgres/postgres@5.0.0");
    let newer = renamed(&std::fs::read(wasm("postgres4")).unwrap(), known, newer);
    let host = host(&[]).file("newer.wasm", &newer).start().await;
    let refusals = host.refusals().join("\n");
    assert!(refusals.contains("it imports spin:postgres/postgres@5.0.0, and Lodge has no such version"), "{refusals}");
    assert!(refusals.contains("spin:postgres@3.0.0 or spin:postgres@4 (4.0.0, 4.1.0 or 4.2.0)"), "{refusals}");
}

/// Without a grant nothing is opened, whichever function wants to.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_opened_without_a_grant() {
    let host = host(&["postgres", "postgres4"]).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    for (at, argument) in [
        ("postgres/v4/database", "SELECT 1"),
        ("postgres4/run/database", "SELECT 1"),
        ("postgres4/builder/database", ""),
        ("postgres4/builder/database", "certificate"),
    ] {
        let denied = error(&host, at, argument).await;
        let why = "ConnectionFailed(\"the manifest of the service grants no such database\")";
        assert!(denied.contains(why), "{at}: {denied}");
    }
}

#[cfg(feature = "postgres")]
mod with_postgres {
    use super::*;
    use crate::harness::authority::Authority;
    use crate::harness::postgres::Postgres;
    use crate::state::postgres::CONFIG;
    use crate::state::postgres::with_postgres::soon;
    use crate::state::sqlite::{ok, run};

    #[tokio::test(flavor = "multi_thread")]
    async fn every_type_goes_there_and_back() {
        let Some(server) = Postgres::start() else { return };
        let middle = std::fs::read(wasm("postgres")).unwrap();
        let middle = renamed(&middle, "spin:postgres/postgres@4.0.0", "spin:postgres/postgres@4.1.0");
        let setup = host(&["postgres", "postgres4"]).file("middle.wasm", &middle);
        let setup = setup.file("database.url", server.url("postgres").as_bytes());
        let setup = setup.manifest("postgres", CONFIG).manifest("middle", CONFIG).manifest("postgres4", CONFIG);
        let host = setup.start().await;
        soon("the server answers", async || run(&host, "postgres4/run/database", "SELECT 1").await.0 == 200).await;
        assert_eq!(ok(&host, "postgres4/types/database", "").await, "25");

        // What has a type of its own is a text in older interfaces, or nothing.
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let columns = "$1::uuid AS a, $2::jsonb AS b, $3::numeric AS c, '{1}'::int[] AS d";
        let statement = format!("SELECT {columns}^t:{uuid}^t:[1]^t:1.50");
        let older = format!("a:str,b:str,c:str,d:other\nt:{uuid},t:[1],t:1.50,Unsupported");
        for at in ["postgres/v2/database", "postgres/v3/database"] {
            assert_eq!(ok(&host, at, &statement).await, older);
        }
        let values = format!("Uuid(\"{uuid}\"),Jsonb([91, 49, 93]),Decimal(\"1.50\"),ArrayInt32([Some(1)])");
        let own = format!("a:uuid,b:jsonb,c:decimal,d:arrayint32\n{values}");
        for at in ["postgres/v4/database", "middle/v4/database"] {
            assert_eq!(ok(&host, at, &statement).await, own);
            assert_eq!(ok(&host, at, &format!("SELECT {columns}^u:{uuid}^j:[1]^c:1.50")).await, own);
        }
        // What has no form is there as the server has sent it, with the name of its type.
        let columns = "'NaN'::numeric AS a, 'empty'::int4range AS b, '10.0.0.0/8'::inet AS c";
        let rows = ok(&host, "postgres4/run/database", &format!("SELECT {columns}")).await;
        let bytes = "Unsupported([0, 0, 0, 0, 192, 0, 0, 0]), Unsupported([1]), Unsupported([2, 8, 0, 4, 10, 0, 0, 0])";
        assert_eq!(rows, format!("a:Decimal,b:RangeInt32,c:Other(\"inet\")\n[{bytes}]"));

        // A guest finds out which constraint it was.
        ok(&host, "postgres4/run/database", "!CREATE TABLE t (id int CONSTRAINT one UNIQUE)").await;
        let twice = error(&host, "postgres4/run/database", "!INSERT INTO t VALUES (1), (1)").await;
        for part in [
            "QueryFailed(QueryError::DbError(DbError",
            "severity: \"ERROR\"",
            "code: \"23505\"",
            "detail: Some(\"Key (id)=(1) already exists.\")",
            "(\"constraint\", \"one\")",
        ] {
            assert!(twice.contains(part), "{part}: {twice}");
        }
        let wrong = error(&host, "postgres/v4/database", "SELECT $1::text^c:1").await;
        assert!(wrong.contains("BadParameter(\"parameter 1: the statement needs `text` here"), "{wrong}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn async_functions_have_bounds() {
        let Some(server) = Postgres::start() else { return };
        let setup = host(&["postgres4"]).file("database.url", server.url("postgres").as_bytes());
        let host = setup.manifest("postgres4", &format!("limits.memory = '64MiB'\n{CONFIG}")).start().await;
        soon("the server answers", async || run(&host, "postgres4/run/database", "SELECT 1").await.0 == 200).await;
        // Statements that run at once on one connection wait for each other, and their results do not.
        let counts = ["1000"; 16].join(",");
        assert_eq!(ok(&host, "postgres4/many/database", "SELECT generate_series(1, 1000)").await, counts);
        // A megabyte four times is more than four megabytes, with what rows need.
        let large = "SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
        let text = ok(&host, "postgres4/unread/database", large).await;
        assert!(text.starts_with("3 1000 1000 ") && text.contains("read them first"), "{text}");
        let text = ok(&host, "postgres4/sent/database", "").await;
        assert!(text.starts_with("4 Some(Error::Other(") && text.contains("await some before others"), "{text}");
        let endless = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
        let endless = error(&host, "postgres4/run/database", endless).await;
        assert!(endless.contains("the result has more than 4194304 bytes"), "{endless}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_guest_drops_is_cancelled() {
        let Some(server) = Postgres::start() else { return };
        let setup = host(&["postgres4"]).named("postgres4", "short");
        let setup = setup.file("database.url", server.url("postgres").as_bytes());
        let setup = setup.manifest("short", &format!("limits.wall = '1s'\n{CONFIG}"));
        // Longer than this test waits: what is not cancelled still runs.
        let long = format!("limits.wall = '5m'\n{CONFIG}postgres.timeout = '60s'\n");
        let host = setup.manifest("postgres4", &long).start().await;
        soon("the server answers", async || run(&host, "postgres4/run/database", "SELECT 1").await.0 == 200).await;
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        let none = async || ok(&host, "postgres4/run/database", sleeping).await == "count:Int64\n[Int64(0)]";
        // Dropped by the guest, and by the end of its request.
        assert_eq!(ok(&host, "postgres4/abandon/database", "SELECT pg_sleep(600)").await, "cancelled");
        let (status, text) = run(&host, "short/run/database", "SELECT pg_sleep(600)").await;
        assert!(status == 500 && text.contains("stopped at its deadline") || status == 504, "{status}: {text}");
        soon("it is cancelled", none).await;
        // What was not committed is rolled back.
        ok(&host, "postgres4/run/database", "!CREATE TABLE t (v int)|!BEGIN|!INSERT INTO t VALUES (1)").await;
        let count = ok(&host, "postgres4/run/database", "SELECT count(*) FROM t").await;
        assert_eq!(count, "count:Int64\n[Int64(0)]");
    }

    /// The password of a URL goes to servers that the operator trusts, and not to those that a guest trusts.
    #[tokio::test(flavor = "multi_thread")]
    async fn builders_trust_whom_the_manifest_trusts() {
        let Some(server) = Postgres::start() else { return };
        let (known, other, third) = (Authority::new().pem(), Authority::new().pem(), Authority::new().pem());
        let setup = host(&["postgres4"]).named("postgres4", "plain");
        let setup = setup.file("ca.pem", format!("{other}{known}").as_bytes());
        let setup = setup.file("database.url", server.url("postgres").as_bytes()).manifest("plain", CONFIG);
        let host = setup.manifest("postgres4", &format!("{CONFIG}postgres.ca = 'ca.pem'\n")).start().await;
        soon("the server answers", async || run(&host, "postgres4/run/database", "SELECT 1").await.0 == 200).await;
        assert_eq!(ok(&host, "postgres4/builder/database", &known).await, "one:Int32\n[Int32(1)]");
        assert_eq!(ok(&host, "plain/builder/database", "").await, "one:Int32\n[Int32(1)]");
        let both = format!("{known}{third}");
        for (at, certificate, why) in [
            ("postgres4/builder/database", third.as_str(), "`ca = \\\"FILE\\\"` in [postgres]"),
            ("postgres4/builder/database", &both, "servers are verified by the authorities"),
            ("plain/builder/database", &known, "servers are verified by the authorities"),
            ("postgres4/builder/database", "none", "the certificate: it contains no certificate"),
        ] {
            let refused = error(&host, at, certificate).await;
            assert!(refused.contains(why), "{at}: {refused}");
        }
    }
}

//! Promise: components that import `wasmcloud:postgres@0.2.0` as released use the first database that `[postgres]` names. Every type is
//! mapped exactly or refused, and a request leaves nothing behind.

use super::sqlite::error;
use crate::harness::host;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_reached_without_a_grant() {
    let host = host(&["postgres_wasmcloud"]).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    for operation in ["run", "prepared", "unknown"] {
        assert_eq!(error(&host, &format!("postgres_wasmcloud/{operation}"), "SELECT 1").await, "Error::AccessDenied");
    }
}

#[cfg(feature = "postgres")]
mod with_postgres {
    use super::*;
    use crate::harness::postgres::Postgres;
    use crate::harness::{TestHost, eventually, until_metric};
    use crate::state::postgres::CONFIG;
    use crate::state::postgres::with_postgres::soon;
    use crate::state::sqlite::{ok, run};

    const SERVICE: &str = "postgres_wasmcloud";

    async fn started(server: &Postgres) -> TestHost {
        let setup = host(&[SERVICE]).file("database.url", server.url("postgres").as_bytes());
        let long = format!("limits.wall = '5m'\n{CONFIG}postgres.timeout = '60s'\n");
        let host = setup.manifest(SERVICE, &long).start().await;
        soon("the server answers", async || run(&host, &at("run"), "SELECT 1").await.0 == 200).await;
        host
    }

    fn at(operation: &str) -> String {
        format!("{SERVICE}/{operation}")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_type_goes_there_and_back() {
        let Some(server) = Postgres::start() else { return };
        let host = started(&server).await;
        ok(&host, &at("run"), "!CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad')").await;
        assert_eq!(ok(&host, &at("types"), "").await, "78");
        // What has no type of its own there.
        let rows = ok(&host, &at("run"), "SELECT 'sad'::mood AS a, ARRAY['sad']::mood[] AS b, 7::oid AS c").await;
        assert_eq!(rows, "a,b,c\n[Text(\"sad\"), TextArray([\"sad\"]), Int8(7)]");
        // Exactly, or not at all.
        for value in [
            "'NaN'::real",
            "'NaN'::numeric",
            "'1'::money",
            "'1 day'::interval",
            "'1:00+1'::timetz",
            "'24:00'::time",
            "'{1,2,3}'::line",
            "'[(1,2),(3,4)]'::path",
            "'a'::tsvector",
            "'a'::tsquery",
            "ARRAY[1, NULL]",
            "ARRAY['a', NULL]",
            "ARRAY[[1]]",
            "'(1,2)'::int4range",
            "(1, 2)",
        ] {
            let refused = error(&host, &at("run"), &format!("SELECT 1, {value} AS x")).await;
            let why = "ValueConversionFailed(\"column `x`: the interface has no exact form of a value of the type";
            assert!(refused.contains(why), "{value}: {refused}");
            ok(&host, &at("run"), &format!("SELECT ({value})::text")).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_does_not_fit_is_refused() {
        let Some(server) = Postgres::start() else { return };
        let host = started(&server).await;
        // The server reads a text as what the statement needs.
        assert_eq!(ok(&host, &at("bind"), "text:7^SELECT $1::int AS n").await, "n\n[Int4(7)]");
        for (statement, why) in [
            ("char:a^SELECT $1::char", "it has 1 bytes, and says that it has 9"),
            ("money:1^SELECT $1::money", "the interface has no exact form of `money`"),
            ("double:^SELECT $1::float8", "its mantissa and exponent are not exactly"),
            ("east:^SELECT $1::timestamptz", "its offset is not 0: give the time in UTC"),
            ("bits:^SELECT $1::bit(9)", "9 bits are not in 1 bytes"),
        ] {
            let refused = error(&host, &at("bind"), statement).await;
            assert!(refused.contains("InvalidParams(\"parameter 1: ") && refused.contains(why), "{refused}");
        }
        let few = error(&host, &at("run"), "SELECT $1::int").await;
        assert!(few.contains("InvalidParams(\"parameter 1: the statement has 1, and 0 were given"), "{few}");
        ok(&host, &at("run"), "!CREATE TABLE t (id int CONSTRAINT one UNIQUE)").await;
        let twice = error(&host, &at("run"), "INSERT INTO t VALUES (1), (1)").await;
        for part in ["QueryFailed(DbError", "code: \"23505\"", "severity: \"ERROR\"", "(\"constraint\", \"one\")"] {
            assert!(twice.contains(part), "{part}: {twice}");
        }
        let long = format!("SELECT 1 --{}", "x".repeat(7_000));
        assert!(ok(&host, &at("run"), &long).await.contains("Int4(1)"));
        let endless = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
        let endless = error(&host, &at("run"), endless).await;
        assert!(endless.contains("the result has more than 4194304 bytes"), "{endless}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batches_and_prepared_statements() {
        let Some(server) = Postgres::start() else { return };
        let host = started(&server).await;
        ok(&host, &at("run"), "!CREATE TABLE t (v int); INSERT INTO t VALUES (1); SELECT 1").await;
        assert_eq!(ok(&host, &at("prepared"), "INSERT INTO t SELECT generate_series(1, $1)").await, "1,2,3");
        let count = async |n: u32| {
            assert_eq!(ok(&host, &at("run"), "SELECT count(*) FROM t").await, format!("count\n[Int8({n})]"));
        };
        count(7).await;
        assert_eq!(error(&host, &at("unknown"), "").await, "Error::UnknownPreparedStatement");
        let wrong = error(&host, &at("prepared"), "INSERT INTO absent VALUES ($1)").await;
        assert!(wrong.contains("code: \"42P01\""), "{wrong}");
        let wrong = error(&host, &at("run"), "!INSERT INTO t VALUES (1); SELECT 1/0; INSERT INTO t VALUES (2)").await;
        assert!(wrong.contains("code: \"22012\""), "{wrong}");
        // A transaction goes over several calls, and ends with the request.
        ok(&host, &at("run"), "!BEGIN|!INSERT INTO t VALUES (1)|!COMMIT").await;
        count(8).await;
        ok(&host, &at("run"), "!BEGIN|!INSERT INTO t VALUES (1)").await;
        ok(&host, &at("run"), "!BEGIN; INSERT INTO t VALUES (1)").await;
        count(8).await;
        // What speaks another protocol ends the connection, and not the service.
        let copy = error(&host, &at("run"), "!COPY t FROM STDIN").await;
        assert!(copy.contains("Error::"), "{copy}");
        count(8).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn statements_are_bounded_and_cancelled() {
        let Some(server) = Postgres::start() else { return };
        let host = started(&server).await;
        assert_eq!(ok(&host, &at("many"), "SELECT generate_series(1, 1000)").await, ["1000"; 16].join(","));
        // The connection of the request ends with a statement that nobody waits for, and the server cancels that.
        assert_eq!(ok(&host, &at("abandon"), "SELECT pg_sleep(600)::text").await, "ended");
        let running =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(6%'";
        let is_cancelled = async || ok(&host, &at("run"), running).await == "count\n[Int8(0)]";
        eventually("the statement is cancelled", is_cancelled).await;
        error(&host, &at("run"), "SELECT 1/0").await;
        let counted = format!("lodge_sql_statements_total{{service=\"{SERVICE}\",outcome=\"failed\"}}");
        until_metric(host.admin, &counted, 1).await;
    }
}

//! The results in the form of docs/performance.md: Markdown, and a picture.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use super::density::Density;
use super::fairness::Fairness;
use super::load::quantile;
use super::overload::Overload;
use super::requests::{Kind, Row};
use super::{backends, calls, checks, cluster, front, proxies, pull, scale, seen, state};

/// Names a row: what was measured, and of which server.
type RowName = (Kind, &'static str);

/// Ratios of the summary: their name, and the rows that are compared.
const RATIOS: &[(&str, RowName, RowName)] = &[
    ("0.2, fresh, to `wasmtime serve`", (Kind::Fresh02, "Lodge, fresh"), (Kind::Fresh02, "wasmtime serve")),
    (
        "0.2, fresh, to the same, pooling tuned",
        (Kind::Fresh02, "Lodge, fresh"),
        (Kind::Fresh02, "wasmtime serve, pooling tuned"),
    ),
    (
        "0.2, fresh, to wasmtime in hyper with nothing around it",
        (Kind::Fresh02, "Lodge, fresh"),
        (Kind::Fresh02, "wasmtime in hyper"),
    ),
    ("0.2, fresh, to a Go handler", (Kind::Fresh02, "Lodge, fresh"), (Kind::Native, "Go")),
    (
        "0.2, warm, to wasmtime in hyper with nothing around it",
        (Kind::Warm02, "Lodge, warm"),
        (Kind::Warm02, "wasmtime in hyper"),
    ),
    ("0.2, warm, to `wasmtime serve` with 1000 uses", (Kind::Warm02, "Lodge, warm"), (Kind::Warm02, "wasmtime serve")),
    ("0.2, warm, to a Go handler", (Kind::Warm02, "Lodge, warm"), (Kind::Native, "Go")),
    ("0.2, warm, to a hyper handler", (Kind::Warm02, "Lodge, warm"), (Kind::Native, "hyper")),
    ("0.3, fresh, to `wasmtime serve` with 1 use", (Kind::Fresh03, "Lodge, fresh"), (Kind::Fresh03, "wasmtime serve")),
    (
        "0.3, warm, to wasmtime in hyper with nothing around it",
        (Kind::Warm03, "Lodge, warm"),
        (Kind::Warm03, "wasmtime in hyper"),
    ),
    ("0.3, warm, to `wasmtime serve`", (Kind::Warm03, "Lodge, warm"), (Kind::Warm03, "wasmtime serve")),
];

/// Describes the machine, the versions and the date.
pub(crate) fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
    };
    let versions = [
        ("date", ["-u", "+%F"].as_slice()),
        ("wasmtime", &["--version"]),
        ("go", &["version"]),
        ("/usr/sbin/nginx", &["-v"]),
    ];
    let versions: Vec<_> = versions.iter().filter_map(|(program, arguments)| said(program, arguments)).collect();
    format!(
        "Lodge {} · {cores} cores of {cpu} · Linux {} · {}",
        env!("CARGO_PKG_VERSION"),
        kernel.trim(),
        versions.join(" · ")
    )
}

fn find<'a>(rows: &'a [Row], (kind, name): (Kind, &str)) -> Option<&'a Row> {
    let exact = rows.iter().find(|row| row.kind == kind && row.name == name);
    exact.or_else(|| rows.iter().find(|row| row.kind == kind && row.name.starts_with(name)))
}

fn group(kind: Kind) -> &'static str {
    match kind {
        Kind::Native => "no WebAssembly",
        Kind::Fresh02 => "wasi:http 0.2, a fresh instance per request",
        Kind::Warm02 => "wasi:http 0.2, instances used again",
        Kind::Fresh03 => "wasi:http 0.3, a fresh instance per request",
        Kind::Warm03 => "wasi:http 0.3, instances used again",
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Formats the tables of the cost of requests.
pub(crate) fn requests(rows: &[Row]) -> String {
    let mut text = String::from(
        "| server | CPU µs/request | requests/s | p50 µs | p99 µs | RSS MiB |\n|---|--:|--:|--:|--:|--:|\n",
    );
    let mut last = None;
    for row in rows {
        if last.replace(row.kind) != Some(row.kind) {
            let _ = writeln!(text, "| **{}** | | | | | |", group(row.kind));
        }
        let (cpu, p50, p99) = (micros(row.cpu), micros(row.p50), micros(row.p99));
        let mib = row.rss as f64 / f64::from(1 << 20);
        let _ = writeln!(text, "| {} | {cpu:.1} | {:.0} | {p50:.0} | {p99:.0} | {mib:.0} |", row.name, row.rate);
    }
    text += "\n| CPU of a request | ratio |\n|---|--:|\n";
    for (what, ours, theirs) in RATIOS {
        if let (Some(ours), Some(theirs)) = (find(rows, *ours), find(rows, *theirs)) {
            let _ = writeln!(text, "| {what} | {:.2} |", micros(ours.cpu) / micros(theirs.cpu));
        }
    }
    text
}

/// Formats the table of the cost of logs and traces.
pub(crate) fn seen(rows: &[seen::Row]) -> String {
    let mut text = String::from(
        "| 0.2, fresh sandbox | CPU µs/request | ratio | p99 µs at 1,000/s | ratio |\n|---|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (cpu, p99) = (micros(row.cpu), micros(row.p99));
        let _ = writeln!(text, "| {} | {cpu:.1} | {:.2} | {p99:.0} | {:.2} |", row.name, row.cpu_ratio, row.p99_ratio);
    }
    text
}

/// Formats the table of calls between services.
pub(crate) fn calls(rows: &[calls::Row]) -> String {
    let mut text = String::from(
        "| a call to another service | CPU µs/call | to the same over loopback | p50 µs |\n|---|--:|--:|--:|\n",
    );
    for row in rows {
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "| {} | {:.1} | {ratio} | {:.0} |", row.name, micros(row.cpu), micros(row.p50));
    }
    text
}

/// Formats the table of operations on state.
pub(crate) fn state(rows: &[state::Row]) -> String {
    let mut text = String::from(
        "| embedded store, 0.2, fresh sandbox | CPU µs/request | added, in hellos | requests/s, to hello |\n|---|--:|--:|--:|\n",
    );
    for row in rows {
        let _ = writeln!(text, "| {} | {:.1} | {:.2} | {:.2} |", row.name, micros(row.cpu), row.added, row.throughput);
    }
    text
}

/// Formats the table of keys and messages by where they are kept.
pub(crate) fn backends(rows: &[backends::Row]) -> String {
    let mut text = String::from(
        "| kept in | operation | CPU µs of the host | a second | p50 ms | p99 ms |\n|---|---|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (cpu, p50, p99) = (micros(row.cpu), row.p50.as_secs_f64() * 1e3, row.p99.as_secs_f64() * 1e3);
        let _ =
            writeln!(text, "| {} | {} | {cpu:.1} | {:.0} | {p50:.2} | {p99:.2} |", row.place, row.name, row.throughput);
    }
    text
}

/// Formats the table of checks before a sandbox.
pub(crate) fn checks(rows: &[checks::Row]) -> String {
    let mut text =
        String::from("| checked before a fresh 0.2 sandbox | CPU µs/request | added, in hellos |\n|---|--:|--:|\n");
    for row in rows {
        let _ = writeln!(text, "| {} | {:.1} | {:.2} |", row.name, micros(row.cpu), row.added);
    }
    text
}

/// Formats the table of what a public front does.
pub(crate) fn front(rows: &[front::Row]) -> String {
    let mut text = String::from(
        "| a front | Lodge, CPU µs | nginx, CPU µs | ratio | bytes, Lodge | bytes, nginx |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (lodge, nginx) = (micros(row.lodge), micros(row.nginx));
        let bytes = row.bytes.map(|bytes| if bytes == 0 { String::new() } else { bytes.to_string() });
        let _ = writeln!(
            text,
            "| {} | {lodge:.1} | {nginx:.1} | {:.2} | {} | {} |",
            row.name, row.ratio, bytes[0], bytes[1]
        );
    }
    text
}

/// Formats the table of proxies.
pub(crate) fn proxies(rows: &[proxies::Row]) -> String {
    let mut text = String::from(
        "| before three replicas | CPU µs/request | ratio | p50 µs at 1,000/s | p99 µs |\n|---|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (cpu, p50, p99) = (micros(row.cpu), micros(row.p50), micros(row.p99));
        let _ = writeln!(text, "| {} | {cpu:.1} | {:.2} | {p50:.0} | {p99:.0} |", row.name, row.ratio);
    }
    text
}

/// Formats the table of a rate limit under ten times its load.
pub(crate) fn overload(measured: &Overload) -> String {
    let Overload { admitted, p99, p99_ratio } = measured;
    format!(
        "| ten times the limit, `rate = \"1000/s\"` | |\n|---|--:|\n| requests let in, to the limit | {admitted:.3} |\n\
         | their p99 µs | {:.0} |\n| the same, to half of the limit and nothing else | {p99_ratio:.2} |\n",
        micros(*p99)
    )
}

/// Formats the table of fairness between services.
pub(crate) fn fairness(measured: &Fairness) -> String {
    let Fairness { place, alone, one, ten, one_ratio, ten_ratio } = measured;
    format!(
        "| hello at 500 requests/s, Lodge {place} | p99 µs | ratio |\n|---|--:|--:|\n| alone | {:.0} | 1 |\n\
         | beside a service that spins, 64 connections | {:.0} | {one_ratio:.2} |\n\
         | beside ten of them, 64 connections | {:.0} | {ten_ratio:.2} |\n",
        micros(*alone),
        micros(*one),
        micros(*ten)
    )
}

/// Formats the table of many services.
pub(crate) fn density(measured: &Density) -> String {
    let Density { services, first_answer, all_answer, cold, cost, idle, unloaded, reload } = measured;
    let ms = |duration: &Duration| duration.as_secs_f64() * 1e3;
    format!(
        "| {services} services in one process | |\n|---|--:|\n| start → first 200, one service, from the cache | {:.0} ms |\n\
         | start → first 200 of all, from the cache | {:.0} ms |\n| the same, compiling | {:.0} ms |\n\
         | CPU of a request among all, to the same alone | {cost:.2} |\n| memory of one more idle service | {:.0} KiB |\n\
         | the same, unloaded | {:.0} KiB |\n| first answer of an unloaded service | {:.1} ms |\n",
        ms(first_answer),
        ms(all_answer),
        ms(cold),
        *idle as f64 / 1024.0,
        *unloaded as f64 / 1024.0,
        ms(reload)
    )
}

/// Pulls from a registry.
pub(crate) fn pull(pulled: &pull::Pulled) -> String {
    let ms = |duration: Duration| format!("{:.0} ms", duration.as_secs_f64() * 1e3);
    let (skopeo, ratio) = match pulled.skopeo {
        Some(skopeo) => (ms(skopeo), format!("{:.2}", pulled.lodge.as_secs_f64() / skopeo.as_secs_f64())),
        None => ("not installed".into(), "-".into()),
    };
    let size = pulled.bytes as f64 / f64::from(1 << 20);
    format!(
        "| a component of {size:.0} MiB from a registry | |\n|---|--:|\n| `lodge pull` | {} |\n| `skopeo copy` to a directory | {skopeo} |\n\
         | ratio | {ratio} |\n\n| {} services from a registry | |\n|---|--:|\n| start → ready, with nothing | {} |\n\
         | start → ready, with what was pulled and compiled before | {} |\n",
        ms(pulled.lodge),
        pulled.services,
        ms(pulled.cold),
        ms(pulled.warm)
    )
}

/// The measurements that sizes follow from.
pub(crate) fn scale(measured: &scale::Scale) -> String {
    let mut text = format!(
        "CPU time of a request: {:.1} µs\n\n| of one core | requests/s | p50 µs | p99 µs | p99 over that at 20 %, µs | the wait by the model |\n\
         |--:|--:|--:|--:|--:|--:|\n",
        micros(measured.cpu)
    );
    let p99 = |utilised: &scale::Utilised| quantile(&utilised.latencies, 0.99);
    let base = measured.utilisations.first().map_or(Duration::ZERO, p99);
    for utilised in &measured.utilisations {
        let (part, rate, wait) = (utilised.part * 100.0, utilised.rate, micros(utilised.wait));
        let (p50, p99) = (micros(quantile(&utilised.latencies, 0.5)), p99(utilised));
        let beyond = micros(p99.saturating_sub(base));
        let _ = writeln!(text, "| {part:.0} % | {rate} | {p50:.0} | {:.0} | {beyond:.0} | {wait:.0} |", micros(p99));
    }
    let _ = writeln!(
        text,
        "\n| a step to {} requests/s | p50 ms | p99 ms | longest ms |\n|---|--:|--:|--:|",
        measured.rate
    );
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    for (phase, latencies) in &measured.step {
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|part| ms(quantile(latencies, part)));
        let _ = writeln!(text, "| {phase} | {p50:.1} | {p99:.1} | {longest:.1} |");
    }
    let _ = writeln!(text, "\n| a request, with its connection | p50 ms | p99 ms |\n|---|--:|--:|");
    let names = ["the first after its code has left memory", "the first after the start of the host", "a later one"];
    for (name, latencies) in names.into_iter().zip(&measured.first) {
        let [p50, p99] = [0.5, 0.99].map(|part| ms(quantile(latencies, part)));
        let _ = writeln!(text, "| {name} | {p50:.2} | {p99:.2} |");
    }
    let _ = writeln!(text, "\nmemory of a request in flight: {:.0} KiB", measured.flying as f64 / 1024.0);
    text
}

/// Draws bars of CPU time per request, readable on light and dark backgrounds.
pub(crate) fn picture(rows: &[Row]) -> String {
    let longest = rows.iter().map(|row| micros(row.cpu)).fold(0.0, f64::max);
    let (mut body, mut y, mut last) = (String::new(), 34.0, None);
    for row in rows {
        if last.replace(row.kind) != Some(row.kind) {
            y += 14.0;
            let _ = writeln!(body, r#"<text x="12" y="{y}" class="group">{}</text>"#, group(row.kind));
            y += 8.0;
        }
        let (cpu, class) = (micros(row.cpu), if row.name.starts_with("Lodge") { "ours" } else { "bar" });
        let width = (cpu / longest * 380.0).max(1.0);
        let _ = writeln!(
            body,
            r#"<text x="250" y="{0}" class="name">{1}</text><rect x="258" y="{2}" width="{width:.1}" height="14" rx="2" class="{class}"/><text x="{3:.1}" y="{0}">{cpu:.1}</text>"#,
            y + 12.0,
            row.name,
            y + 1.0,
            264.0 + width
        );
        y += 19.0;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {0}" width="700" height="{0}" role="img" aria-label="CPU time of a request">
<style>text{{font:12px system-ui,sans-serif;fill:#57606a}}.title{{font-size:14px;font-weight:600}}.group{{font-weight:600}}.name{{text-anchor:end}}.bar{{fill:#8c959f}}.ours{{fill:#d9730d}}
@media(prefers-color-scheme:dark){{text{{fill:#adbac7}}.bar{{fill:#545d68}}}}</style>
<text x="12" y="22" class="title">CPU time of a request, µs (user + system; less is better)</text>
{body}</svg>
"#,
        y + 12.0
    )
}

/// Formats the table of what a cluster loses.
pub(crate) fn cluster(rows: &[cluster::Row], rate: u32) -> String {
    let mut text = format!(
        "| three hosts at {rate} requests/s | s | GET | failed | POST | failed | last failure, s | sent again | p50 ms | p99 ms | longest ms |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    for row in rows {
        let ([gets, posts], [lost, lost_posts]) = (row.requests, row.failed);
        let last = row.last_failure.map_or("-".to_owned(), |last| format!("{:.2}", last.as_secs_f64()));
        let _ = writeln!(
            text,
            "| {} | {:.0} | {gets} | {lost} | {posts} | {lost_posts} | {last} | {} | {:.1} | {:.1} | {:.0} |",
            row.name,
            row.seconds,
            row.repeated,
            millis(row.p50),
            millis(row.p99),
            millis(row.longest)
        );
    }
    for row in rows {
        for (why, count) in &row.reasons {
            let _ = writeln!(text, "\n{}: {count} × {why}", row.name);
        }
    }
    let broken: Vec<_> = rows.iter().filter(|row| !row.holds).map(|row| row.name).collect();
    let verdict =
        if broken.is_empty() { "It holds.".to_owned() } else { format!("It does not hold: {}.", broken.join(", ")) };
    let _ = writeln!(
        text,
        "\nAt most 0.1 % of idempotent requests may fail when one host is killed, none after 2 s, and nothing else. {verdict}"
    );
    text
}

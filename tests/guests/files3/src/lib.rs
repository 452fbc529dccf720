//! Uses files by WASI 0.3: `/SERVICE/OPERATION?PATH` in the directory `/data`. `read`, `write` and `list` do that. `escape` tries to
//! reach what is outside, and `change` to change what is in it; they respond with what they could do.

use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};
use wasip3::http::types::{ErrorCode as HttpError, Request, Response};
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

struct Guest;

wasip3::http::service::export!(Guest);

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, HttpError> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (at, path) = target.split_once('?').unwrap_or((&target, ""));
        let of = get_directories().into_iter().next().map(|(of, _)| of);
        let Some(of) = of else { return Ok(kit3::result(Err("there is no directory".into()))) };
        let result = match at.rsplit('/').next() {
            Some("read") => read(&of, path).await,
            Some("write") => write(&of, path, "written").await,
            Some("list") => list(&of).await,
            Some("list-often") => {
                let mut all = Vec::new();
                for _ in 0..11 {
                    match list(&of).await {
                        Ok(text) => all.push(text),
                        Err(error) => return Ok(kit3::respond(500, format!("{error:?}"))),
                    }
                }
                Ok(all.join(" "))
            }
            // Streams that nobody reads.
            Some("unread") => {
                let streams: Vec<_> = (0..100).map(|_| of.read_directory()).collect();
                wasip3::clocks::monotonic_clock::wait_for(1_000_000_000).await;
                Ok(streams.len().to_string())
            }
            Some("escape") => Ok(escape(&of, path).await),
            Some("change") => Ok(change(&of).await),
            _ => Ok(format!("no operation: {at}")),
        };
        Ok(kit3::result(result.map_err(|error| format!("{error:?}"))))
    }
}

const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;

async fn read(of: &Descriptor, path: &str) -> Result<String, ErrorCode> {
    let file = of.open_at(FOLLOW, path.into(), OpenFlags::empty(), DescriptorFlags::READ).await?;
    let (content, result) = file.read_via_stream(0);
    let content = content.collect().await;
    result.await?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

async fn write(of: &Descriptor, path: &str, content: &str) -> Result<String, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = of.open_at(FOLLOW, path.into(), OpenFlags::CREATE | OpenFlags::TRUNCATE, flags).await?;
    send(&file, content).await?;
    Ok("written".into())
}

async fn send(file: &Descriptor, content: &str) -> Result<(), ErrorCode> {
    let (mut to, data) = wit_stream::new();
    let content = content.as_bytes().to_vec();
    spawn_local(async move {
        to.write_all(content).await;
    });
    file.write_via_stream(data, 0).await
}

async fn list(of: &Descriptor) -> Result<String, ErrorCode> {
    let (entries, result) = of.read_directory();
    let mut names: Vec<_> = entries.collect().await.into_iter().map(|entry| entry.name).collect();
    result.await?;
    names.sort();
    Ok(if names.len() > 100 { names.len().to_string() } else { names.join(",") })
}

/// Adds what could be done to a report.
fn done<T>(report: &mut String, what: &str, result: Result<T, ErrorCode>) {
    if result.is_ok() {
        *report += &format!("DONE {what}\n");
    }
}

/// Tries to reach `outside`, the absolute path of the directory around its own, which has a file `secret`.
async fn escape(of: &Descriptor, outside: &str) -> String {
    let mut report = String::new();
    let mut places =
        vec!["..".to_owned(), "/".into(), outside.into(), "up".into(), "sub/../..".into(), "absolute".into()];
    for (number, to) in ["..", outside, "sub/../..", "up"].into_iter().enumerate() {
        let link = format!("mine3{number}");
        if of.symlink_at(to.into(), link.clone()).await.is_ok() {
            places.push(link);
        }
    }
    let mut files: Vec<_> = places.iter().map(|place| format!("{place}/secret")).collect();
    files.extend(["chain", "link", "sub/link", "/etc/passwd"].map(Into::into));
    for path in places.iter().chain(&files) {
        done(&mut report, &format!("read {path}"), read(of, path).await);
        done(&mut report, &format!("write {path}"), write(of, path, "changed").await);
        done(&mut report, &format!("stat {path}"), of.stat_at(FOLLOW, path.clone()).await);
        done(&mut report, &format!("link {path}"), of.link_at(FOLLOW, path.clone(), of, "stolen3".into()).await);
        done(&mut report, &format!("put at {path}"), of.rename_at("file".into(), of, format!("{path}/file")).await);
        done(&mut report, &format!("make below {path}"), of.create_directory_at(format!("{path}/made")).await);
        let opened = of.open_at(FOLLOW, path.clone(), OpenFlags::DIRECTORY, DescriptorFlags::READ).await;
        done(&mut report, &format!("open {path}"), opened);
    }
    report + "end"
}

/// Tries to change what is in the directory: a `file`, and a directory `sub`.
async fn change(of: &Descriptor) -> String {
    let (mut report, now) = (String::new(), NewTimestamp::Now);
    done(&mut report, "write", write(of, "file", "changed").await);
    done(&mut report, "create", write(of, "new", "changed").await);
    let file = of.open_at(FOLLOW, "file".into(), OpenFlags::empty(), DescriptorFlags::READ).await.unwrap();
    done(&mut report, "send", send(&file, "changed").await);
    done(&mut report, "size", file.set_size(1).await);
    done(&mut report, "times", of.set_times_at(FOLLOW, "file".into(), now, now).await);
    done(&mut report, "link", of.link_at(PathFlags::empty(), "file".into(), of, "linked".into()).await);
    done(&mut report, "rename", of.rename_at("file".into(), of, "renamed".into()).await);
    done(&mut report, "symlink", of.symlink_at("file".into(), "linked".into()).await);
    done(&mut report, "make", of.create_directory_at("made".into()).await);
    done(&mut report, "remove", of.unlink_file_at("file".into()).await);
    done(&mut report, "remove a directory", of.remove_directory_at("sub".into()).await);
    report + "end"
}

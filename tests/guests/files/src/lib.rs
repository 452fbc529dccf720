//! Uses files: `/SERVICE/OPERATION?PATH`. `read`, `write`, `list` and `remove` do it as programs do; `list-often` lists eleven times. `escape` tries to reach what is
//! outside of its directories, `change` to change what is in one of them, and `cross` to write through one of them to the other;
//! they respond with what they could do.

use std::fs;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (at, path) = target.split_once('?').unwrap_or((&target, ""));
        let result = match at.rsplit('/').next() {
            Some("directories") => Ok(format!("{:?}", names())),
            Some("read") => fs::read_to_string(path),
            Some("write") => fs::write(path, "written").map(|()| "written".into()),
            Some("remove") => fs::remove_file(path).map(|()| "removed".into()),
            Some("list") => list(path),
            Some("list-often") => {
                (0..11).map(|_| list(path)).collect::<std::io::Result<Vec<_>>>().map(|all| all.join(" "))
            }
            Some("escape") => Ok(escape(path)),
            Some("change") => Ok(change(path)),
            Some("cross") => Ok(cross()),
            _ => Ok(format!("no operation: {at}")),
        };
        kit::result(outparam, result.map_err(|error| error.to_string()));
    }
}

fn names() -> Vec<String> {
    let mut names: Vec<_> = get_directories().into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

fn list(path: &str) -> std::io::Result<String> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(if names.len() > 100 { names.len().to_string() } else { names.join(",") })
}

fn directory(name: &str) -> Descriptor {
    get_directories().into_iter().find(|(_, known)| known == name).expect("the directory is there").0
}

const FOLLOW: [PathFlags; 2] = [PathFlags::SYMLINK_FOLLOW, PathFlags::empty()];

/// Adds what could be done to a report.
fn done<T>(report: &mut String, what: &str, result: Result<T, ErrorCode>) {
    if result.is_ok() {
        *report += &format!("DONE {what}\n");
    }
}

/// Tries to reach `outside`, the absolute path of the directory around its own, which has a file `secret`.
fn escape(outside: &str) -> String {
    let (of, mut report) = (directory("/data"), String::new());
    let mut places = vec!["..".to_owned(), "../".into(), "../..".into(), "/".into(), outside.into(), "up".into()];
    places.extend(["sub/../..", "./..", "sub/../../volume/..", "up/.", "sub/up", "//", "absolute"].map(Into::into));
    // Links of its own.
    for (number, to) in ["..", "../", outside, "/", "sub/../..", "up", "/proc/self/cwd"].into_iter().enumerate() {
        let link = format!("mine{number}");
        if of.symlink_at(to, &link).is_ok() {
            places.push(link);
        }
    }
    let secret = |place: &String| format!("{}/secret", place.trim_end_matches('/'));
    let mut files: Vec<_> = places.iter().map(secret).collect();
    files.extend(["chain", "link", "sub/link", "../secret", "..//secret", "/etc/passwd"].map(Into::into));
    for path in places.iter().chain(&files) {
        for follow in FOLLOW {
            for flags in [DescriptorFlags::READ, DescriptorFlags::READ | DescriptorFlags::WRITE] {
                if let Ok(opened) = of.open_at(follow, path, OpenFlags::empty(), flags) {
                    let content = opened.read(4096, 0).map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
                    let inner = opened.open_at(follow, "secret", OpenFlags::empty(), DescriptorFlags::READ);
                    let inner = inner.and_then(|inner| inner.read(4096, 0)).map(|(bytes, _)| bytes);
                    report += &format!("OPENED {path}: {content:?} {inner:?}\n");
                }
            }
            done(&mut report, &format!("link {path}"), of.link_at(follow, path, &of, "stolen"));
            let now = NewTimestamp::Now;
            if follow == PathFlags::SYMLINK_FOLLOW {
                done(&mut report, &format!("stat of {path}"), of.stat_at(follow, path));
                done(&mut report, &format!("times of {path}"), of.set_times_at(follow, path, now, now));
            }
            let create = OpenFlags::CREATE | OpenFlags::TRUNCATE;
            let new = format!("{path}/new");
            for path in [path, &new] {
                done(&mut report, &format!("create {path}"), of.open_at(follow, path, create, DescriptorFlags::WRITE));
            }
        }
        done(&mut report, &format!("rename {path}"), of.rename_at(path, &of, "stolen"));
        done(&mut report, &format!("put at {path}"), of.rename_at("file", &of, &format!("{path}/file")));
        done(
            &mut report,
            &format!("link at {path}"),
            of.link_at(PathFlags::empty(), "file", &of, &format!("{path}/file")),
        );
        done(&mut report, &format!("make below {path}"), of.create_directory_at(&format!("{path}/made")));
        done(&mut report, &format!("symlink below {path}"), of.symlink_at("file", &format!("{path}/made")));
        let below = secret(path);
        done(&mut report, &format!("remove {below}"), of.unlink_file_at(&below));
        for path in [path, outside, &format!("/data/{path}")] {
            if let Ok(content) = fs::read_to_string(path) {
                report += &format!("READ {path}: {content}\n");
            }
        }
    }
    report + "end"
}

/// Tries to change what is in the directory `of`: a `file`, and a directory `sub`.
fn change(name: &str) -> String {
    let (of, mut report) = (directory(name), String::new());
    let now = NewTimestamp::Now;
    for follow in FOLLOW {
        for flags in [DescriptorFlags::WRITE, DescriptorFlags::READ | DescriptorFlags::WRITE] {
            for open in [OpenFlags::empty(), OpenFlags::TRUNCATE, OpenFlags::CREATE] {
                done(&mut report, "open to write", of.open_at(follow, "file", open, flags));
            }
            done(&mut report, "create", of.open_at(follow, "new", OpenFlags::CREATE, flags));
            let mutate = DescriptorFlags::MUTATE_DIRECTORY | DescriptorFlags::READ;
            if let Ok(sub) = of.open_at(follow, "sub", OpenFlags::DIRECTORY, mutate) {
                done(&mut report, "create below", sub.open_at(follow, "new", OpenFlags::CREATE, flags));
                done(&mut report, "make below", sub.create_directory_at("made"));
            }
        }
        done(&mut report, "create to read", of.open_at(follow, "new2", OpenFlags::CREATE, DescriptorFlags::READ));
        done(&mut report, "truncate", of.open_at(follow, "file", OpenFlags::TRUNCATE, DescriptorFlags::READ));
        done(&mut report, "times", of.set_times_at(follow, "file", now, now));
        done(&mut report, "link", of.link_at(follow, "file", &of, "linked"));
    }
    let file = of.open_at(PathFlags::empty(), "file", OpenFlags::empty(), DescriptorFlags::READ).unwrap();
    done(&mut report, "write", file.write(b"changed", 0));
    done(&mut report, "size", file.set_size(1));
    done(&mut report, "times of the file", file.set_times(now, now));
    if let Ok(stream) = file.write_via_stream(0) {
        done(&mut report, "stream", stream.blocking_write_and_flush(b"changed").map_err(|_| ErrorCode::Access));
    }
    if let Ok(stream) = file.append_via_stream() {
        done(&mut report, "append", stream.blocking_write_and_flush(b"changed").map_err(|_| ErrorCode::Access));
    }
    done(&mut report, "times of the directory", of.set_times(now, now));
    done(&mut report, "rename", of.rename_at("file", &of, "renamed"));
    done(&mut report, "symlink", of.symlink_at("file", "linked2"));
    done(&mut report, "make", of.create_directory_at("made"));
    done(&mut report, "remove", of.unlink_file_at("file"));
    done(&mut report, "remove a directory", of.remove_directory_at("sub"));
    report + "end"
}

/// Tries to write to `/fixed`, which is read-only, through `/data`, which is not.
fn cross() -> String {
    let (from, to, mut report) = (directory("/fixed"), directory("/data"), String::new());
    done(&mut report, "link", from.link_at(PathFlags::empty(), "file", &to, "other"));
    done(&mut report, "rename", from.rename_at("file", &to, "other"));
    done(&mut report, "put", to.rename_at("file", &from, "other"));
    done(&mut report, "link back", to.link_at(PathFlags::empty(), "file", &from, "other"));
    let _ = to.symlink_at("../fixed/file", "crossing");
    for follow in FOLLOW {
        done(&mut report, "open", to.open_at(follow, "crossing", OpenFlags::empty(), DescriptorFlags::WRITE));
        done(
            &mut report,
            "open by path",
            to.open_at(follow, "../fixed/file", OpenFlags::empty(), DescriptorFlags::WRITE),
        );
    }
    done(&mut report, "write", fs::write("/data/../fixed/file", "changed").map_err(|_| ErrorCode::Access));
    report + "end"
}

//! The pages that browsers get in place of problem details, where the host responds itself. They are read again while the host runs, and
//! a bad file never replaces a good one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::Semaphore;

use crate::live_files::{FileContent, LiveFiles, LiveValue, OF_HOST, OF_SERVICE};
use lodge_base::config::errors::{ErrorStatuses, PageFiles};
use lodge_manifest::Manifest;

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// The most placeholders of a page, so that a response is not much larger than its file.
const MOST_PLACEHOLDERS: usize = 16;

/// What is replaced in a page.
const PLACEHOLDERS: [(&str, PagePart); 2] = [("{status}", PagePart::Status), ("{request-id}", PagePart::RequestId)];

/// A page, in the order of its parts.
#[derive(Debug)]
pub struct ErrorPage(Vec<PagePart>);

#[derive(Debug)]
enum PagePart {
    /// Sent as it is.
    Text(Bytes),
    /// The three digits of the status.
    Status,
    /// The id of the request, by which operators find it in the log.
    RequestId,
}

/// The pages of the host, of a service or of a route, which are read again when their files change.
#[derive(Debug, Default)]
pub struct PageSet(BTreeMap<ErrorStatuses, Arc<LiveValue<ErrorPage>>>);

/// The pages of a service and of its routes.
#[derive(Debug)]
pub struct ServicePages {
    service: Option<Arc<PageSet>>,
    /// By the number of the route.
    routes: Vec<Option<Arc<PageSet>>>,
    /// The service, which uses the files for as long as this lives.
    _user: Arc<str>,
}

/// The files of pages that are in use. Who names the same file shares its content.
#[derive(Debug)]
pub struct PageSources {
    files: LiveFiles<ErrorPage>,
    threads: Arc<Semaphore>,
}

impl ErrorPage {
    /// The most bytes of a file.
    const MOST_BYTES: u64 = 64 << 10;

    /// Reads a page. Other braces than those of placeholders are text: styles and scripts have many.
    fn read(text: &str) -> Result<Self, String> {
        // A file that is being written is empty first.
        if text.trim().is_empty() {
            return Err("it is empty".into());
        }
        let (mut parts, mut placeholders, mut rest) = (Vec::new(), 0, text);
        let first = |rest: &str| {
            let found = PLACEHOLDERS.into_iter().filter_map(|(name, part)| Some((rest.find(name)?, name, part)));
            found.min_by_key(|(at, ..)| *at)
        };
        while let Some((at, name, part)) = first(rest) {
            let (before, after) = rest.split_at_checked(at).unwrap_or_default();
            parts.extend([PagePart::Text(Bytes::copy_from_slice(before.as_bytes())), part]);
            rest = after.strip_prefix(name).unwrap_or_default();
            placeholders += 1;
        }
        parts.push(PagePart::Text(Bytes::copy_from_slice(rest.as_bytes())));
        match placeholders {
            0..=MOST_PLACEHOLDERS => Ok(Self(parts)),
            many => Err(format!("{many} placeholders are more than {MOST_PLACEHOLDERS}")),
        }
    }

    /// Returns the page for one response.
    pub fn render(&self, status: StatusCode, request_id: &str) -> Bytes {
        if let [PagePart::Text(whole)] = &*self.0 {
            return whole.clone();
        }
        let mut page = Vec::new();
        for part in &self.0 {
            match part {
                PagePart::Text(text) => page.extend_from_slice(text),
                PagePart::Status => page.extend_from_slice(status.as_str().as_bytes()),
                PagePart::RequestId => request_id.chars().for_each(|char| escape(char, &mut page)),
            }
        }
        page.into()
    }
}

/// Writes a character so that it is no part of the markup, also in a value in quotes.
fn escape(char: char, page: &mut Vec<u8>) {
    let text = match char {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        '\'' => "&#39;",
        other => return page.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    };
    page.extend_from_slice(text.as_bytes());
}

impl FileContent for ErrorPage {
    const WHAT: &'static str = "error page";
    const MOST_BYTES: u64 = Self::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        "it is".into()
    }

    /// A page is public, so a link makes none of another file. Directories such as `..2026_11_30` are those of a ConfigMap.
    fn beneath(path: &Path) -> Result<(), &'static str> {
        let html = path.extension().is_some_and(|ending| ending == "html" || ending == "htm");
        if !html {
            return Err("it leads to a file whose name does not end in .html or .htm");
        }
        let is_hidden = |part: &OsStr| part.as_encoded_bytes().starts_with(b".");
        let of_config_map = |part: &OsStr| part.as_encoded_bytes().starts_with(b"..");
        if path.file_name().is_some_and(is_hidden) || path.iter().any(|part| is_hidden(part) && !of_config_map(part)) {
            return Err("it leads to a file or a directory whose name begins with `.`");
        }
        Ok(())
    }
}

impl PageSet {
    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns why files cannot be used now, a line each, as they are in the manifest or the settings.
    fn problems(&self, effect: &str) -> impl Iterator<Item = String> {
        let files = self.0.values().filter_map(move |page| page.problem_of(effect));
        files.map(|line| format!("errors.pages: {line}"))
    }

    /// Returns why files of the host cannot be used now, a line each.
    pub fn host_problems(&self) -> Vec<String> {
        self.problems(OF_HOST).collect()
    }

    /// Returns the page for a status: its own before that of its class.
    pub fn find(&self, status: StatusCode) -> Option<&LiveValue<ErrorPage>> {
        self.0.iter().find(|(statuses, _)| statuses.contain(status.as_u16())).map(|(_, page)| &**page)
    }
}

impl ServicePages {
    /// Returns why files cannot be used now, a line each.
    pub fn problems(&self) -> Vec<String> {
        let sets = self.routes.iter().chain([&self.service]).flatten();
        let lines: BTreeSet<_> = sets.flat_map(|set| set.problems(OF_SERVICE)).collect();
        lines.into_iter().collect()
    }

    /// Returns the pages of the route with this number; those of the host if it is `None`, and none at all if they are empty.
    pub fn of_route(&self, route: usize) -> Option<&Arc<PageSet>> {
        self.routes.get(route).unwrap_or(&self.service).as_ref()
    }
}

impl Default for PageSources {
    fn default() -> Self {
        Self { files: LiveFiles::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl PageSources {
    /// Reads the pages of the host, and goes on reading them for as long as they are in use.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is no page.
    pub async fn open_host(&self, files: &PageFiles) -> Result<PageSet, String> {
        let mut pages = PageSet::default();
        for (statuses, path) in files {
            let page = self.files.follow(path, &self.threads, |_, _, _| {}).await;
            pages.0.insert(*statuses, page.map_err(|why| format!("errors.pages: {}: {why}", path.display()))?);
        }
        Ok(pages)
    }

    /// Reads the pages of the service `name`; `None` if its manifest has none. Files are below `directory`, and no link leads out of it.
    ///
    /// # Errors
    /// As [`open_host`](Self::open_host).
    pub async fn open_service(
        &self,
        manifest: &Manifest,
        name: &str,
        directory: &Path,
    ) -> Result<Option<ServicePages>, String> {
        let user: Arc<str> = name.into();
        let service = self.open(manifest.errors.as_deref(), &user, directory).await?;
        let mut routes = Vec::new();
        for route in &manifest.routes {
            routes.push(match &route.errors {
                inherited if *inherited == manifest.errors => service.clone(),
                own => self.open(own.as_deref(), &user, directory).await?,
            });
        }
        let any = service.is_some() || routes.iter().any(Option::is_some);
        Ok(any.then_some(ServicePages { service, routes, _user: user }))
    }

    /// Returns the files of the pages that other services than this one use.
    pub fn used_beside(&self, service: &str) -> Vec<PathBuf> {
        self.files.used_beside(service)
    }

    async fn open(
        &self,
        files: Option<&PageFiles>,
        user: &Arc<str>,
        directory: &Path,
    ) -> Result<Option<Arc<PageSet>>, String> {
        let Some(files) = files else { return Ok(None) };
        let mut pages = PageSet::default();
        for (statuses, path) in files {
            let page = self.files.follow_beneath(directory, path, &self.threads).await;
            let page = page.map_err(|why| format!("errors.pages: {}: {why}", path.display()))?;
            page.used_by(user);
            pages.0.insert(*statuses, page);
        }
        Ok(Some(Arc::new(pages)))
    }
}

#[cfg(test)]
mod tests;

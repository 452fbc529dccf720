//! The files of schemas and of documents of OpenAPI. They are read again while the host runs, and a bad file never replaces a good one.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::api::Api;
use super::api::responses::ApiWithResponses;
use super::schema::Schema;
use super::schema::hints::hints;
use super::{RequestCheck, RequestChecks};
use crate::live_files::{FileContent, LiveFiles, LiveValue};

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// The schemas and documents that the services of a host use. Services that name the same file share it.
#[derive(Debug)]
pub struct SchemaSources {
    schemas: LiveFiles<Schema>,
    documents: LiveFiles<Api>,
    /// The documents with what they say of responses, where these are checked.
    responses: Option<LiveFiles<ApiWithResponses>>,
    threads: Arc<Semaphore>,
}

impl FileContent for Schema {
    const WHAT: &'static str = "schema";
    const MOST_BYTES: u64 = Self::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        not_empty(text).and_then(Self::read)
    }

    fn describe(&self) -> String {
        "it is".into()
    }

    fn hints(text: &str) -> Vec<String> {
        hints(text)
    }
}

impl FileContent for Api {
    const WHAT: &'static str = "OpenAPI";
    const MOST_BYTES: u64 = Self::MOST_BYTES;
    // YAML may end anywhere.
    const MAY_BE_CUT: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        not_empty(text).and_then(Self::read)
    }

    fn describe(&self) -> String {
        match self.count() {
            1 => "1 operation is".into(),
            count => format!("{count} operations are"),
        }
    }

    fn hints(text: &str) -> Vec<String> {
        Api::hints(text)
    }
}

/// Returns the text of a file, unless it says nothing.
fn not_empty(text: &str) -> Result<&str, String> {
    if text.trim_ascii().is_empty() { Err("it is empty".into()) } else { Ok(text) }
}

impl FileContent for ApiWithResponses {
    const WHAT: &'static str = "OpenAPI of responses";
    const MOST_BYTES: u64 = Api::MOST_BYTES;
    const MAY_BE_CUT: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        not_empty(text).and_then(Self::read)
    }

    fn describe(&self) -> String {
        "it is".into()
    }
}

/// Returns what a document says of responses. A mistake in that is told, and no reason to refuse requests.
async fn responses(
    files: &LiveFiles<ApiWithResponses>,
    path: &Path,
    threads: &Arc<Semaphore>,
) -> Option<Arc<LiveValue<ApiWithResponses>>> {
    let read = files.follow(path, threads, |_, _, _| {}).await;
    let file = path.display();
    read.inspect_err(|why| tracing::warn!("{file}: responses are not checked: {why}")).ok()
}

impl Default for SchemaSources {
    fn default() -> Self {
        let (schemas, documents, responses) = (LiveFiles::default(), LiveFiles::default(), None);
        Self { schemas, documents, responses, threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl SchemaSources {
    /// Returns the sources of a host, and whether it checks responses as well.
    pub fn new(checks_responses: bool) -> Self {
        Self { responses: checks_responses.then(LiveFiles::default), ..Self::default() }
    }

    /// Reads files as they are from now on, also those that may be incomplete: for a check that serves nothing.
    pub fn set_offline(&mut self) {
        self.documents.set_offline();
        self.responses.iter_mut().for_each(LiveFiles::set_offline);
    }

    /// Reads the files of these checks, and goes on reading them for as long as they are in use. Files are relative to `directory`, and
    /// the log names the service beside them.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is not what it has to be.
    pub async fn open(&self, checks: &mut RequestChecks, service: &str, directory: &Path) -> Result<(), String> {
        let user: Arc<str> = service.into();
        checks._user = Some(Arc::clone(&user));
        for check in checks.all() {
            match check {
                RequestCheck::Any => {}
                RequestCheck::Body(check) => {
                    let path = directory.join(&check.settings.schema);
                    let schema = self.schemas.follow(&path, &self.threads, |_, _, _| {}).await;
                    let schema = schema.map_err(|why| format!("validate.body: {}: {why}", path.display()))?;
                    schema.used_by(&user);
                    check.schema = Some(schema);
                }
                RequestCheck::Api(check) => {
                    let path = directory.join(&check.settings.file);
                    let api = self.documents.follow(&path, &self.threads, |_, _, _| {}).await;
                    let api = api.map_err(|why| format!("api.openapi: {}: {why}", path.display()))?;
                    api.used_by(&user);
                    check.api = Some(api);
                    check.responses = match &self.responses {
                        Some(files) => responses(files, &path, &self.threads).await,
                        None => None,
                    };
                }
            }
        }
        Ok(())
    }
}

//! The files of schemas. They are read again while the host runs, and a bad file never replaces a good one.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::BodyChecks;
use super::schema::Schema;
use crate::live_files::{FileContent, LiveFiles};

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// The schemas that the services of a host use. Services that name the same file share it.
#[derive(Debug)]
pub struct SchemaSources {
    files: LiveFiles<Schema>,
    threads: Arc<Semaphore>,
}

impl FileContent for Schema {
    const WHAT: &'static str = "schema";
    const MOST_BYTES: u64 = Self::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        match self.count() {
            1 => "1 schema is".into(),
            count => format!("{count} schemas are"),
        }
    }
}

impl Default for SchemaSources {
    fn default() -> Self {
        Self { files: LiveFiles::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl SchemaSources {
    /// Reads the schemas of these checks, and goes on reading them for as long as they are in use. Files are relative to `directory`.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is not a schema.
    pub async fn open(&self, checks: &mut BodyChecks, directory: &Path) -> Result<(), String> {
        for check in checks.unread() {
            let path = directory.join(&check.settings.schema);
            let schema = self.files.follow(&path, &self.threads, |_, _, _| {}).await;
            check.schema = Some(schema.map_err(|why| format!("validate.body: {}: {why}", path.display()))?);
        }
        Ok(())
    }
}

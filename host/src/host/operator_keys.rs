//! The keys of `admin_keys`, for a host that starts.

use std::sync::Arc;
use std::time::SystemTime;

use crate::admin;
use crate::guests::deployer::Deployer;
use lodge_base::config::Config;
use lodge_traffic::auth::api_keys::KeyRing;
use lodge_traffic::live_files::LiveValue;

/// Reads the file of keys for the admin API, if there is one, and adds to `doubts` which keys have no effect.
pub(super) async fn read(
    config: &Config,
    deployer: &Deployer,
    doubts: &mut Vec<String>,
) -> Result<Option<Arc<LiveValue<KeyRing>>>, String> {
    let Some(file) = &config.admin_keys else { return Ok(None) };
    doubts.extend(admin::questionable(file, SystemTime::now()));
    deployer.api_keys(file).await.map(Some).map_err(|why| {
        format!(
            "admin_keys: {0}: {why}; `lodge keys create NAME --scope read --file {0}` writes such a file",
            file.display()
        )
    })
}

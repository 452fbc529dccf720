//! The files that the settings name.

use std::path::{Path, PathBuf};

use super::Config;
use super::pull::Credentials;

impl Config {
    /// Returns the files, and directories with files, that the settings name, and that of the settings itself. Who can write one of
    /// them decides what the host trusts; several contain secrets.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let (state, pull) = (&self.state, &self.pull);
        let credentials = match &pull.credentials {
            Credentials::At(path) => Some(path),
            Credentials::Auto | Credentials::Off => None,
        };
        let single = [
            &self.program.file,
            &self.program.compiler,
            &self.admin_keys,
            &self.shared_config,
            &self.tls.client_ca,
            &self.tls.acme.ca,
            &self.tls.acme.eab_key,
            &self.tls.acme.path,
            &self.tls.acme.share_keys,
            &state.ca,
            &state.certificate,
            &state.key,
            &state.credentials,
            &state.blobs_credentials,
            &state.blobs_ca,
            &pull.ca,
            &self.audit.file,
        ];
        let several = self.trust.keys.iter().map(|file| &file.path).chain(&self.tls.certificates);
        let several = several.chain(self.errors.pages.values());
        let single = single.into_iter().flatten().chain([&self.kubernetes.account]);
        single.chain(credentials).chain(several).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, described, resolve};
    use super::*;

    /// A new setting that names a file must be in the list.
    #[test]
    fn every_setting_that_names_a_file_is_in_the_list() {
        // These take any text and name no file, or name a directory that the host writes.
        const OTHERS: [&str; 16] = [
            "guests",
            "admin_token",
            "log_level",
            "log_mask",
            "log_headers",
            "state.path",
            "tls.acme.eab_kid",
            "cache.directory",
            "cache.sealed",
            "calls.suffix",
            "state.url",
            "state.blobs",
            "traces.endpoint",
            "traces.headers",
            "traces.service",
            "traces.resource",
        ];
        let mut found = Vec::new();
        for (name, ..) in described().filter(|(name, ..)| !OTHERS.contains(&name.as_str())) {
            let mut source =
                std::collections::BTreeMap::from([("state.url", "redis://127.0.0.1"), ("state.blobs", "s3://bucket")]);
            if name.starts_with("tls.") {
                source.extend([("tls.listen", "127.0.0.1:8443"), ("tls.certificates", "/another")]);
                source.extend([("tls.acme.domains", "a.test"), ("tls.acme.eab_kid", "kid")]);
                source.insert("tls.acme.eab_key", "/a/third");
            }
            source.insert(&name, "/named/file");
            let source = source.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
            let Ok(resolved) = resolve(&[(Origin::Flag, source)]) else { continue };
            assert!(resolved.config.files().any(|file| file == Path::new("/named/file")), "{name}");
            found.push(name);
        }
        assert!(found.len() >= 10, "{found:?}");
    }
}

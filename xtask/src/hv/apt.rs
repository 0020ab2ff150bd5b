//! Packages of the distribution that are unpacked rather than installed: apt with lists and a cache of its own, so that
//! other architectures and suites do not become the machine's business.

use anyhow::{Context, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Missing, packages};
use crate::tools::{output, run};

/// An archive that the machine itself uses, as its sources say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
    /// `signed-by`, where the machine says so.
    pub(super) key: Option<String>,
}

/// The machine's own Debian sources that have `main`. Another mirror can be named in `SLAT_HV_DEBIAN`.
pub(super) fn sources() -> anyhow::Result<Vec<Source>> {
    if packages::find("apt-get").is_none() || packages::find("dpkg-deb").is_none() {
        bail!(Missing("apt-get and dpkg-deb, to get packages with".to_owned()));
    }
    if let Ok(uri) = std::env::var("SLAT_HV_DEBIAN") {
        let source = |suite: &str| Source { uri: uri.clone(), suite: suite.to_owned(), key: debian_key() };
        return Ok(vec![source("stable"), source("oldstable")]);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let found: Vec<Source> = files.iter().flat_map(|path| parse_file(path)).filter(is_debian).collect();
    if found.is_empty() {
        bail!(Missing(
            "a Debian archive: this machine's apt sources name none; set SLAT_HV_DEBIAN to a mirror's address, and install \
             the package debian-archive-keyring"
                .to_owned()
        ));
    }
    Ok(found)
}

/// Debian's archives, by their key or by what mirrors call their folders.
fn is_debian(source: &Source) -> bool {
    let key = source.key.as_deref().is_some_and(|key| key.contains("debian-archive"));
    key || source.uri.trim_end_matches('/').rsplit('/').next().is_some_and(|folder| folder.starts_with("debian"))
}

fn debian_key() -> Option<String> {
    const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Path::new(KEY).exists().then(|| KEY.to_owned())
}

fn parse_file(path: &Path) -> Vec<Source> {
    let text = fs::read_to_string(path).unwrap_or_default();
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("sources") => parse_stanzas(&text),
        Some("list") => text.lines().filter_map(parse_line).collect(),
        _ => Vec::new(),
    }
}

/// `deb [options] URI SUITE COMPONENT…`
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let has_main = words.any(|component| component == "main");
    has_main.then(|| Source { uri: uri.to_owned(), suite: suite.to_owned(), key: key.map(str::to_owned) })
}

/// Stanzas of `Field: value` lines (deb822), parted by empty lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let lines = stanza.lines().filter(|line| !line.starts_with('#'));
            lines
                .filter_map(|line| line.split_once(':'))
                .find(|(field, _)| *field == name)
                .map(|(_, value)| value.trim())
        };
        let has_main = field("Components").is_some_and(|components| components.split(' ').any(|word| word == "main"));
        let is_binary = field("Types").is_some_and(|types| types.split(' ').any(|word| word == "deb"));
        if !has_main || !is_binary || field("Enabled") == Some("no") {
            continue;
        }
        for uri in field("URIs").unwrap_or_default().split_whitespace() {
            for suite in field("Suites").unwrap_or_default().split_whitespace() {
                let key = field("Signed-By").map(str::to_owned);
                found.push(Source { uri: uri.to_owned(), suite: suite.to_owned(), key });
            }
        }
    }
    found
}

/// apt for one architecture and some sources, in a folder of its own.
pub(super) struct Apt {
    folder: PathBuf,
    architecture: Option<&'static str>,
}

impl Apt {
    /// Gets the lists of the sources. Those that do not exist are passed over.
    pub(super) fn new(folder: &Path, architecture: Option<&'static str>, sources: &[Source]) -> anyhow::Result<Self> {
        let apt = Self { folder: folder.to_owned(), architecture };
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let mut lines = String::new();
        for Source { uri, suite, key } in sources {
            let architecture = architecture.map_or(String::new(), |name| format!("arch={name} "));
            let key = key.clone().or_else(debian_key).map_or(String::new(), |key| format!("signed-by={key}"));
            lines += &format!("deb [{architecture}{key}] {uri} {suite} main\n");
        }
        fs::write(folder.join("sources.list"), lines)?;
        // Fails where one suite is not there, having got the others.
        let _ = apt.command("apt-get").args(["--quiet", "update"]).output();
        if !apt.has_lists() {
            let uris: Vec<&str> = sources.iter().map(|source| &*source.uri).collect();
            bail!(Missing(format!(
                "lists of packages: {} gave none (no network?)",
                uris.first().unwrap_or(&"no archive")
            )));
        }
        Ok(apt)
    }

    fn has_lists(&self) -> bool {
        let Ok(files) = fs::read_dir(self.folder.join("lists")) else { return false };
        files.filter_map(Result::ok).any(|file| file.file_name().to_string_lossy().contains("_Packages"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        option("Dir::Etc::SourceList", &self.folder.join("sources.list"));
        option("Dir::Etc::SourceParts", Path::new("-"));
        option("Dir::State::Lists", &self.folder.join("lists"));
        option("Dir::State::Status", &self.folder.join("status"));
        option("Dir::Cache", &self.folder.join("cache"));
        for fixed in ["APT::Sandbox::User=root", "Acquire::Languages=none", "Acquire::Retries=3"] {
            command.arg("-o").arg(fixed);
        }
        if let Some(name) = self.architecture {
            command.args(["-o", &format!("APT::Architecture={name}"), "-o", &format!("APT::Architectures={name}")]);
        }
        command.current_dir(self.folder.join("packages"));
        command
    }

    /// Where lists, cache and packages are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes all that, when it has served.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }

    /// All versions of a package.
    pub(super) fn versions(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["madison", package]))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect())
    }

    /// What a package depends on, by name.
    pub(super) fn dependencies(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["depends", package]))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text.lines().filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned())).collect())
    }

    /// Downloads a package (`name` or `name=version`) and unpacks it into `into`.
    pub(super) fn unpack(&self, package: &str, into: &Path) -> anyhow::Result<()> {
        println!("getting the package {package} (unpacked below {}, not installed)", into.display());
        let packages = self.folder.join("packages");
        let _ = fs::remove_dir_all(&packages);
        fs::create_dir_all(&packages)?;
        output(self.command("apt-get").args(["--quiet", "download", package]))
            .with_context(|| format!("the package {package} cannot be downloaded"))?;
        let files: Vec<_> = fs::read_dir(&packages)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        ensure!(files.len() == 1, "downloading {package} brought {} files", files.len());
        fs::create_dir_all(into)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&files[0]).arg(into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_are_read() {
        let source = parse_line("deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm main contrib");
        let expected =
            Source { uri: "http://mirror/debian".into(), suite: "bookworm".into(), key: Some("/k.gpg".into()) };
        assert_eq!(source, Some(expected));
        assert_eq!(parse_line("# deb http://mirror/debian bookworm main"), None);
        assert_eq!(parse_line("deb http://mirror/debian bookworm contrib"), None);
        assert_eq!(parse_line("deb-src http://mirror/debian bookworm main"), None);
    }

    #[test]
    fn stanzas_are_read_suite_by_suite() {
        let text = "Types: deb deb-src\n# a comment: with a colon\nURIs: http://mirror/debian\nSuites: a a-updates\n\
                    Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://other\nSuites: b\nComponents: extra\n";
        let found = parse_stanzas(text);
        assert_eq!(found.iter().map(|source| &*source.suite).collect::<Vec<_>>(), ["a", "a-updates"]);
        assert!(found.iter().all(is_debian));
        let other = Source { uri: "http://mirror/ubuntu/".into(), suite: "noble".into(), key: None };
        assert!(!is_debian(&other));
    }
}

//! The shared files of the SDKs, as far as static keys and the region go. What would need more (a role to assume,
//! single sign-on, a program to ask) is an error that names the key and the file.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::credentials::Keys;
use super::env::Env;

const MAX_FILE: u64 = 1 << 20;
/// Ways to credentials that this program does not go.
const UNSUPPORTED: [&str; 7] = [
    "role_arn",
    "credential_process",
    "web_identity_token_file",
    "sso_session",
    "sso_account_id",
    "sso_start_url",
    "credential_source",
];

/// What the chosen profile says.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// Its static keys.
    pub(crate) keys: Option<Keys>,
    /// Its region.
    pub(crate) region: Option<String>,
}

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProfileError {
    /// A file that is named cannot be read.
    Read { file: PathBuf, why: String },
    /// No file has a profile of this name.
    Missing { profile: String },
    /// It needs something that is not supported.
    Unsupported { profile: String, key: &'static str, file: PathBuf },
    /// Only one half of the keys is there.
    Half { profile: String, missing: &'static str, file: PathBuf },
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProfileError::Read { file, why } => write!(f, "cannot read {}: {why}", file.display()),
            ProfileError::Missing { profile } => {
                write!(f, "no profile '{profile}' in the shared credentials and config files")
            }
            ProfileError::Unsupported { profile, key, file } => write!(
                f,
                "profile '{profile}' in {} has {key}, which is not supported: only static keys are",
                file.display()
            ),
            ProfileError::Half { profile, missing, file } => {
                write!(f, "profile '{profile}' in {} has no {missing}", file.display())
            }
        }
    }
}

impl std::error::Error for ProfileError {}

/// Reads the profile that `--profile`, else `AWS_PROFILE`, else nobody names (`default`). A `default` that is not there
/// is an empty one.
pub(crate) fn load(env: &Env, option: Option<&str>) -> Result<Profile, ProfileError> {
    let named = option.or_else(|| env.get("AWS_PROFILE"));
    let name = named.unwrap_or("default");
    let mut profile = Profile::default();
    let mut found = false;
    for (variable, default, is_config) in
        [("AWS_SHARED_CREDENTIALS_FILE", "credentials", false), ("AWS_CONFIG_FILE", "config", true)]
    {
        let file = match (env.get(variable), env.get("HOME")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) => Path::new(home).join(".aws").join(default),
            (None, None) => continue,
        };
        let Some(text) = read(&file)? else { continue };
        let Some(keys) = section(&text, name, is_config) else { continue };
        found = true;
        let get = |key: &str| keys.get(key).filter(|v| !v.is_empty()).cloned();
        profile.region = profile.region.take().or_else(|| get("region"));
        if profile.keys.is_some() {
            continue;
        }
        let half = |missing| ProfileError::Half { profile: name.to_owned(), missing, file: file.clone() };
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                profile.keys = Some(Keys::new(&id, &secret, get("aws_session_token").as_deref()));
            }
            (Some(_), None) => return Err(half("aws_secret_access_key")),
            (None, Some(_)) => return Err(half("aws_access_key_id")),
            (None, None) => {
                if let Some(key) = UNSUPPORTED.into_iter().find(|k| get(k).is_some()) {
                    return Err(ProfileError::Unsupported { profile: name.to_owned(), key, file });
                }
            }
        }
    }
    match named {
        Some(name) if !found => Err(ProfileError::Missing { profile: name.to_owned() }),
        _ => Ok(profile),
    }
}

fn read(file: &Path) -> Result<Option<String>, ProfileError> {
    let mut text = Vec::new();
    match std::fs::File::open(file).and_then(|f| f.take(MAX_FILE).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ProfileError::Read { file: file.to_owned(), why: e.to_string() }),
    }
}

/// The keys of a section: `[name]`, in the config file `[profile name]` (or `[default]`). Nested lines (indented ones)
/// belong to settings of single services and are passed over.
fn section(text: &str, name: &str, is_config: bool) -> Option<BTreeMap<String, String>> {
    let mut out: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let plain = line.trim();
        if let Some(header) = plain.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            let profile = header.strip_prefix("profile").filter(|r| r.starts_with([' ', '\t']));
            let called = match (is_config, profile) {
                (true, Some(rest)) => Some(rest.trim()),
                (true, None) => Some(header).filter(|h| *h == "default"),
                (false, _) => Some(header),
            };
            inside = called.is_some_and(|c| c.trim_matches('"') == name);
            if inside {
                out.get_or_insert_default();
            }
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let (Some((key, value)), Some(out)) = (plain.split_once('='), out.as_mut())
        {
            // A comment at a line's end needs a blank before it: keys may hold a `#`.
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            out.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_from(credentials: &str, config: &str, profile: Option<&str>) -> Result<Profile, String> {
        let dir = std::env::temp_dir().join(format!("ec2fleetd-profile-{:x}", crate::random::bits()));
        std::fs::create_dir_all(&dir).unwrap();
        let (a, b) = (dir.join("cred"), dir.join("conf"));
        std::fs::write(&a, credentials).unwrap();
        std::fs::write(&b, config).unwrap();
        let env = [("AWS_SHARED_CREDENTIALS_FILE", a.to_str().unwrap()), ("AWS_CONFIG_FILE", b.to_str().unwrap())];
        let out = load(&Env::of(&env), profile).map_err(|e| e.to_string().replace(dir.to_str().unwrap(), "D"));
        std::fs::remove_dir_all(&dir).unwrap();
        out
    }

    #[test]
    fn keys_and_region_of_a_profile() {
        let credentials = "# c\n[default]\naws_access_key_id=A\naws_secret_access_key = S/+= # c\n\n[p]\n\
                           aws_access_key_id = B\naws_secret_access_key = T\naws_session_token=tok\n";
        let config = "[default]\nregion = eu-west-1\ns3 =\n  region = no\n[profile p]\nregion=us-east-1\n";
        let p = load_from(credentials, config, None).unwrap();
        assert_eq!((p.keys, p.region.as_deref()), (Some(Keys::new("A", "S/+=", None)), Some("eu-west-1")));
        let p = load_from(credentials, config, Some("p")).unwrap();
        assert_eq!((p.keys, p.region.as_deref()), (Some(Keys::new("B", "T", Some("tok"))), Some("us-east-1")));
        assert!(load_from("", "", None).unwrap().keys.is_none());
    }

    #[test]
    fn what_is_not_supported_or_missing_is_named() {
        let e = |cred: &str, conf: &str, p: Option<&str>| load_from(cred, conf, p).unwrap_err();
        assert_eq!(
            e("", "[profile x]\nrole_arn = r\nsource_profile = y\n", Some("x")),
            "profile 'x' in D/conf has role_arn, which is not supported: only static keys are"
        );
        assert!(e("[default]\ncredential_process = p\n", "", None).contains("D/cred has credential_process"));
        assert!(e("", "[default]\nsso_session = p\n", None).contains("has sso_session"));
        assert_eq!(e("", "", Some("x")), "no profile 'x' in the shared credentials and config files");
        assert_eq!(
            e("[default]\naws_access_key_id = A\n", "", None),
            "profile 'default' in D/cred has no aws_secret_access_key"
        );
        let env = Env::of(&[("AWS_CONFIG_FILE", "/"), ("AWS_SHARED_CREDENTIALS_FILE", "/no/such")]);
        assert!(load(&env, None).unwrap_err().to_string().starts_with("cannot read /: "));
    }
}

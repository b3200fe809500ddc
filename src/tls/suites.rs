//! Protocol versions, cipher suites and key exchanges: what the settings ask for, in OpenSSL's words, of what rustls
//! has. What it hasn't is named in a warning, never dropped silently.

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::TlsError;

/// A cipher suite, and with it the protocol version: each belongs to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cipher {
    Tls13Aes256,
    Tls13Aes128,
    Tls13ChaCha20,
    Tls12EcdsaAes256,
    Tls12EcdsaAes128,
    Tls12EcdsaChaCha20,
    Tls12RsaAes256,
    Tls12RsaAes128,
    Tls12RsaChaCha20,
}

impl Cipher {
    /// All suites, in the order of preference.
    pub const ALL: [Self; 9] = [
        Self::Tls13Aes256,
        Self::Tls13Aes128,
        Self::Tls13ChaCha20,
        Self::Tls12EcdsaAes256,
        Self::Tls12EcdsaAes128,
        Self::Tls12EcdsaChaCha20,
        Self::Tls12RsaAes256,
        Self::Tls12RsaAes128,
        Self::Tls12RsaChaCha20,
    ];

    /// OpenSSL's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls13Aes256 => "TLS_AES_256_GCM_SHA384",
            Self::Tls13Aes128 => "TLS_AES_128_GCM_SHA256",
            Self::Tls13ChaCha20 => "TLS_CHACHA20_POLY1305_SHA256",
            Self::Tls12EcdsaAes256 => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::Tls12EcdsaAes128 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::Tls12EcdsaChaCha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::Tls12RsaAes256 => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::Tls12RsaAes128 => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::Tls12RsaChaCha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }

    /// The protocol version.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Tls13Aes256 | Self::Tls13Aes128 | Self::Tls13ChaCha20 => "TLSv1.3",
            _ => "TLSv1.2",
        }
    }

    /// Whether it belongs to TLS 1.3.
    const fn is_tls13(self) -> bool {
        matches!(self, Self::Tls13Aes256 | Self::Tls13Aes128 | Self::Tls13ChaCha20)
    }

    const fn code(self) -> CipherSuite {
        match self {
            Self::Tls13Aes256 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Tls13Aes128 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Tls13ChaCha20 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            Self::Tls12EcdsaAes256 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            Self::Tls12EcdsaAes128 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            Self::Tls12EcdsaChaCha20 => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            Self::Tls12RsaAes256 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            Self::Tls12RsaAes128 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            Self::Tls12RsaChaCha20 => CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        }
    }

    /// The suite of a connection.
    #[must_use]
    pub fn of(suite: SupportedCipherSuite) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.code() == suite.suite())
    }
}

impl std::fmt::Display for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.version(), self.name())
    }
}

/// What the settings say about protocols and ciphers; empty: the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// `tls_protocols`.
    pub protocols: String,
    /// `tls_ciphers`.
    pub ciphers: String,
    /// `tls13_ciphers`.
    pub ciphers13: String,
    /// `client_tls_ecdhcurve`.
    pub curve: String,
    /// `client_tls_dheparams`.
    pub dheparams: String,
}

/// What comes of it.
pub(super) struct Chosen {
    pub(super) provider: CryptoProvider,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

impl Wanted {
    /// Chooses. Each thing that can't be had is told to `warn`, with the setting's name.
    pub(super) fn choose(&self, warn: &mut impl FnMut(&'static str, String)) -> Result<Chosen, TlsError> {
        let (tls12, tls13) = protocols(&self.protocols, warn)?;
        let suites12 = ciphers12(&self.ciphers, warn);
        let suites13 = ciphers13(&self.ciphers13, warn);
        let culprit = if tls12 && suites12.is_empty() { "tls_ciphers" } else { "tls13_ciphers" };
        let chosen = |cipher: Cipher| if cipher.is_tls13() { tls13 } else { tls12 };
        let suites: Vec<Cipher> = suites13.into_iter().chain(suites12).filter(|cipher| chosen(*cipher)).collect();
        if suites.is_empty() {
            return Err(TlsError::new(culprit, "names no cipher that there is here"));
        }
        if !matches!(self.dheparams.as_str(), "" | "auto" | "none") {
            warn("tls_dheparams", "has no effect: there is no key exchange but by elliptic curves".into());
        }
        let provider = ring::default_provider();
        let of = |cipher: &Cipher| provider.cipher_suites.iter().find(|suite| suite.suite() == cipher.code()).copied();
        let cipher_suites: Vec<_> = suites.iter().filter_map(of).collect();
        let kx_groups = groups(&self.curve, &provider, warn)?;
        let has = |tls13: bool| suites.iter().any(|cipher| cipher.is_tls13() == tls13);
        let versions = [(&version::TLS13, tls13 && has(true)), (&version::TLS12, tls12 && has(false))];
        let versions = versions.into_iter().filter(|(_, on)| *on).map(|(version, _)| version).collect();
        Ok(Chosen { provider: CryptoProvider { cipher_suites, kx_groups, ..provider }, versions })
    }
}

/// Whether TLS 1.2 and 1.3 are allowed, by libtls' rules: words, each adding, or with `!` taking away.
fn protocols(text: &str, warn: &mut impl FnMut(&'static str, String)) -> Result<(bool, bool), TlsError> {
    const SETTING: &str = "tls_protocols";
    let (mut tls12, mut tls13) = (false, false);
    let text = if text.trim().is_empty() { "secure" } else { text };
    for (index, word) in text.split([',', ':']).map(str::trim).filter(|word| !word.is_empty()).enumerate() {
        let (word, on) = word.strip_prefix('!').map_or((word, true), |word| (word, false));
        if index == 0 && !on {
            (tls12, tls13) = (true, true);
        }
        match word.to_ascii_lowercase().as_str() {
            "all" | "legacy" | "secure" | "default" => (tls12, tls13) = (on, on),
            "tlsv1" => (tls12, tls13) = (on, on),
            "tlsv1.2" => tls12 = on,
            "tlsv1.3" => tls13 = on,
            old @ ("tlsv1.0" | "tlsv1.1") if on => {
                warn(SETTING, format!("{old} is not spoken here: it is deprecated (RFC 8996)"));
            }
            "tlsv1.0" | "tlsv1.1" => {}
            _ => {
                let known = "tlsv1.2, tlsv1.3, secure or all";
                return Err(TlsError::new(SETTING, format!("{word:?} is not a protocol; it may be {known}")));
            }
        }
    }
    match (tls12, tls13) {
        (false, false) => Err(TlsError::new(SETTING, "allows neither tlsv1.2 nor tlsv1.3, and there is no other here")),
        allowed => Ok(allowed),
    }
}

/// The suites of TLS 1.2 that an OpenSSL cipher string names. Of its language the plain names count, and words for
/// "all that is good"; exclusions are of ciphers that aren't here anyway, unless they name one that is.
fn ciphers12(text: &str, warn: &mut impl FnMut(&'static str, String)) -> Vec<Cipher> {
    const SETTING: &str = "tls_ciphers";
    let all = || Cipher::ALL.into_iter().filter(|cipher| !cipher.is_tls13());
    let mut chosen: Vec<Cipher> = Vec::new();
    let text = if text.trim().is_empty() { "default" } else { text };
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        if let Some(excluded) = word.strip_prefix(['!', '-']) {
            chosen.retain(|cipher| !is_meant(excluded, *cipher));
            continue;
        }
        let word = word.trim_start_matches('+');
        let lower = word.to_ascii_lowercase();
        // A part that only sorts, or sets a level.
        if word.starts_with('@') {
            continue;
        }
        let general = ["default", "secure", "fast", "normal", "all", "high", "compat", "legacy", "insecure"];
        let meant: Vec<Cipher> = match general.contains(&lower.as_str()) {
            true => all().collect(),
            false => all().filter(|cipher| is_meant(word, *cipher)).collect(),
        };
        if meant.is_empty() {
            warn(
                SETTING,
                format!("{word} is not a cipher that there is here: it has only ECDHE with AES-GCM or ChaCha20"),
            );
        }
        meant.into_iter().for_each(|cipher| {
            if !chosen.contains(&cipher) {
                chosen.push(cipher);
            }
        });
    }
    chosen
}

/// Whether a word of a cipher string, such as `ECDHE-RSA-AES256-GCM-SHA384` or `ECDHE+AESGCM`, means this suite.
fn is_meant(word: &str, cipher: Cipher) -> bool {
    let name = cipher.name();
    if word.eq_ignore_ascii_case(name) {
        return true;
    }
    word.split('+').all(|part| match part.to_ascii_uppercase().as_str() {
        "ECDHE" | "EECDH" | "KECDHE" | "AEAD" | "TLSV1.2" | "HIGH" => true,
        "AESGCM" | "AES" => name.contains("AES"),
        "AES256" => name.contains("AES256"),
        "AES128" => name.contains("AES128"),
        "CHACHA20" => name.contains("CHACHA20"),
        "ECDSA" | "AECDSA" => name.contains("ECDSA"),
        "RSA" | "ARSA" => name.contains("-RSA-"),
        "SHA384" => name.ends_with("SHA384"),
        "SHA256" => name.ends_with("SHA256"),
        _ => false,
    })
}

fn ciphers13(text: &str, warn: &mut impl FnMut(&'static str, String)) -> Vec<Cipher> {
    let all = || Cipher::ALL.into_iter().filter(|cipher| cipher.is_tls13());
    if text.trim().is_empty() {
        return all().collect();
    }
    let mut chosen = Vec::new();
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match all().find(|cipher| cipher.name().eq_ignore_ascii_case(word)) {
            Some(cipher) if !chosen.contains(&cipher) => chosen.push(cipher),
            Some(_) => {}
            None => warn("tls13_ciphers", format!("{word} is not a cipher that there is here")),
        }
    }
    chosen
}

/// The curves of the key exchange.
fn groups(
    text: &str,
    provider: &CryptoProvider,
    warn: &mut impl FnMut(&'static str, String),
) -> Result<Vec<&'static dyn SupportedKxGroup>, TlsError> {
    const SETTING: &str = "tls_ecdhcurve";
    let named = |word: &str| {
        let name = match word.to_ascii_lowercase().as_str() {
            "x25519" => rustls::NamedGroup::X25519,
            "prime256v1" | "secp256r1" | "p-256" => rustls::NamedGroup::secp256r1,
            "secp384r1" | "p-384" => rustls::NamedGroup::secp384r1,
            _ => return None,
        };
        provider.kx_groups.iter().find(|group| group.name() == name).copied()
    };
    match text.trim() {
        "" | "auto" => return Ok(provider.kx_groups.clone()),
        "none" => {
            warn(SETTING, "none has no effect: there is no key exchange but by elliptic curves".into());
            return Ok(provider.kx_groups.clone());
        }
        _ => {}
    }
    let mut chosen = Vec::new();
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match named(word) {
            Some(group) => chosen.push(group),
            None => warn(SETTING, format!("{word} is not a curve that there is here (X25519, prime256v1, secp384r1)")),
        }
    }
    match chosen.is_empty() {
        true => Err(TlsError::new(SETTING, "names no curve that there is here (X25519, prime256v1, secp384r1)")),
        false => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ciphers and versions that come of it, and the settings that were warned of.
    fn chosen(wanted: &Wanted) -> Result<(Vec<&'static str>, usize, Vec<&'static str>), String> {
        let mut warned = Vec::new();
        let chosen = wanted.choose(&mut |setting, _| warned.push(setting)).map_err(|error| error.setting.to_owned())?;
        let names = chosen.provider.cipher_suites.iter().map(|suite| Cipher::of(*suite).unwrap().name());
        Ok((names.collect(), chosen.versions.len(), warned))
    }

    fn ciphers(text: &str) -> Result<(Vec<&'static str>, usize, Vec<&'static str>), String> {
        chosen(&Wanted { protocols: "tlsv1.2".into(), ciphers: text.into(), ..Wanted::default() })
    }

    #[test]
    fn all_that_there_is_by_default() {
        let all: Vec<_> = Cipher::ALL.iter().map(|cipher| cipher.name()).collect();
        for text in ["", "default", "secure", "HIGH:!aNULL:@STRENGTH", "ALL:!3DES:!RC4"] {
            assert_eq!(
                chosen(&Wanted { ciphers: text.into(), ..Wanted::default() }),
                Ok((all.clone(), 2, vec![])),
                "{text}"
            );
        }
    }

    #[test]
    fn openssls_words_choose_among_them() {
        let one = |name| Ok((vec![name], 1, vec![]));
        assert_eq!(ciphers("ECDHE-RSA-AES128-GCM-SHA256"), one("ECDHE-RSA-AES128-GCM-SHA256"));
        assert_eq!(ciphers("ECDHE+ECDSA+CHACHA20"), one("ECDHE-ECDSA-CHACHA20-POLY1305"));
        assert_eq!(ciphers("EECDH+AESGCM:!AES128:!aECDSA"), one("ECDHE-RSA-AES256-GCM-SHA384"));
        let (names, _, warned) =
            ciphers("AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384").unwrap();
        assert_eq!(names, ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"], "in the order given");
        assert_eq!(warned, ["tls_ciphers"]);
        assert_eq!(ciphers("AES128-SHA"), Err("tls_ciphers".into()));
        assert_eq!(ciphers("HIGH:!ECDHE"), Err("tls_ciphers".into()));
        // Where only those of TLS 1.3 are left there is no TLS 1.2.
        let (names, versions, _) = chosen(&Wanted { ciphers: "AES128-SHA".into(), ..Wanted::default() }).unwrap();
        assert!(versions == 1 && names.iter().all(|name| name.starts_with("TLS_")), "{names:?}");
    }

    #[test]
    fn protocols_add_and_take_away() {
        let allowed = |text: &str| protocols(text, &mut |_, _| ()).ok();
        for (text, expected) in [
            ("secure", Some((true, true))),
            ("tlsv1.2", Some((true, false))),
            ("tlsv1.3", Some((false, true))),
            ("TLSv1.2, TLSv1.3", Some((true, true))),
            ("all:!tlsv1.2", Some((false, true))),
            ("!tlsv1.3", Some((true, false))),
            ("!tlsv1.0", Some((true, true))),
            ("tlsv1.0", None),
            ("tlsv1.2,!tlsv1.2", None),
            ("sslv3", None),
        ] {
            assert_eq!(allowed(text), expected, "{text}");
        }
    }
}

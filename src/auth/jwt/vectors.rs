//! The signature check against the examples of RFC 7515 (appendix A), RFC 7520 (section 4) and RFC 8037 (appendix A).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::testing::hmac;
use super::keys::{Algorithm, Key};

const RFC7515_SECRET: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const RFC7515_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-\
     pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2Ca\
     pHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb5\
     4h4FRWyuXpoQ";
const RFC7515_PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC7520_MODULUS: &str = "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqV\
     wGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJls\
     de3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkq\
     gc5gHdrNP5zw";
const RFC7520_SECRET: &str = "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg";
const RFC7520_PAYLOAD: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW\
     5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0\
     by4";
const ED25519: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const P256: (&str, &str) =
    ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");

/// The key verifies the example, no changed example, and nothing with another algorithm.
fn check(key: &Key, algorithm: Algorithm, header: &str, payload: &str, signature: &str) {
    let message = format!("{header}.{payload}");
    assert!(key.verify(algorithm, &message, signature), "{algorithm:?}");
    assert!(!key.verify(algorithm, &format!("{message}A"), signature), "{algorithm:?}: another message");
    let changed = signature.replacen(['a', 'b', 'c', 'd', 'e'], "Z", 1);
    assert!(changed != signature && !key.verify(algorithm, &message, &changed), "{algorithm:?}: another signature");
    for bad in ["", "=", &signature[1..], &format!("{signature}="), &format!("{signature}AAAA")] {
        assert!(!key.verify(algorithm, &message, bad), "{algorithm:?}: {bad}");
    }
    let all =
        ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    for other in all.map(|name| name.parse().unwrap()).into_iter().filter(|other| *other != algorithm) {
        assert!(!key.verify(other, &message, signature), "{algorithm:?} as {other:?}");
    }
}

fn secret(text: &str) -> Key {
    hmac(&URL_SAFE_NO_PAD.decode(text).unwrap())
}

#[test]
fn the_examples_of_rfc_7515_are_verified() {
    let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let header = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    check(&secret(RFC7515_SECRET), Algorithm::HS256, header, RFC7515_PAYLOAD, signature);
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
                     bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
                     0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
                     LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let key = Key::rsa(RFC7515_MODULUS, "AQAB").unwrap();
    check(&key, Algorithm::RS256, "eyJhbGciOiJSUzI1NiJ9", RFC7515_PAYLOAD, signature);
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let key = Key::elliptic("P-256", P256.0, P256.1).unwrap();
    check(&key, Algorithm::ES256, "eyJhbGciOiJFUzI1NiJ9", RFC7515_PAYLOAD, signature);
}

#[test]
fn the_examples_of_rfc_7520_are_verified() {
    let key = Key::rsa(RFC7520_MODULUS, "AQAB").unwrap();
    let signature = "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7P\
                     NDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9e\
                     Ro4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4\
                     uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg";
    let header = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
    check(&key, Algorithm::RS256, header, RFC7520_PAYLOAD, signature);
    let signature = "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dD\
                     DItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ij\
                     Q7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAj\
                     VKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";
    let header = "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
    check(&key, Algorithm::PS384, header, RFC7520_PAYLOAD, signature);
    let header = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9";
    let signature = "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0";
    check(&secret(RFC7520_SECRET), Algorithm::HS256, header, RFC7520_PAYLOAD, signature);
}

#[test]
fn the_example_of_rfc_8037_is_verified() {
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let key = Key::ed25519(ED25519).unwrap();
    check(&key, Algorithm::EdDSA, "eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", signature);
}

#[test]
fn keys_of_other_kinds_and_sizes_are_refused() {
    assert!(Key::rsa("AQAB", "AQAB").unwrap_err().contains("2048 to 4096 bits"));
    assert!(Key::rsa(&format!("AAAA{RFC7515_MODULUS}"), "AQAB").is_ok(), "leading zeros have no meaning");
    assert!(Key::rsa("+/==", "AQAB").is_err());
    assert!(Key::elliptic("P-521", P256.0, P256.1).is_err() && Key::elliptic("secp256k1", P256.0, P256.1).is_err());
    assert!(Key::elliptic("P-384", P256.0, P256.1).is_err() && Key::elliptic("P-256", P256.0, "AAAA").is_err());
    assert!(Key::ed25519("AAAA").is_err());
    let key = Key::rsa(RFC7515_MODULUS, "AQAB").unwrap().only_for("RS512").unwrap();
    assert!(key.allows(Algorithm::RS512) && !key.allows(Algorithm::RS256) && !key.allows(Algorithm::PS512));
    assert!(key.clone().only_for("HS256").is_err() && key.clone().only_for("none").is_err());
    assert!(!format!("{:?} {:?}", key, secret(RFC7515_SECRET)).contains(&RFC7515_SECRET[..8]));
}

#[test]
fn pem_files_have_public_keys_of_the_known_kinds() {
    let check = |text: &str, want: Result<&[Algorithm], &str>| {
        let got = Key::from_pem(text).map(|keys| keys.iter().map(|key| key.algorithms()[0]).collect::<Vec<_>>());
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            (got, want) => panic!("{got:?} instead of {want:?}: {text}"),
        }
    };
    let (rsa, ec) = (include_str!("test_keys/rsa.pem"), include_str!("test_keys/ec.pem"));
    check(rsa, Ok(&[Algorithm::RS256]));
    check(include_str!("test_keys/rsa1.pem"), Ok(&[Algorithm::RS256]));
    check(ec, Ok(&[Algorithm::ES256]));
    check(include_str!("test_keys/p384.pem"), Ok(&[Algorithm::ES384]));
    check(include_str!("test_keys/ed.pem"), Ok(&[Algorithm::EdDSA]));
    check(&format!("first\n{rsa}second\n{ec}").replace('\n', "\r\n"), Ok(&[Algorithm::RS256, Algorithm::ES256]));
    for other in ["k1", "p521", "ed448"] {
        let text = std::fs::read_to_string(format!("src/auth/jwt/test_keys/{other}.pem")).unwrap();
        check(&text, Err("RSA, P-256, P-384 or Ed25519"));
    }
    check(include_str!("test_keys/rsa1024.pem"), Err("it has 1024"));
    check(include_str!("test_keys/certificate.pem"), Err("openssl x509 -pubkey"));
    check(&rsa.replace("PUBLIC", "PRIVATE"), Err("it is a private key"));
    check(&ec.replace("PUBLIC", "EC PRIVATE"), Err("it is a private key"));
    check("", Err("it has no public key"));
    check("a secret", Err("it has no public key"));
    check(&rsa[..100], Err("the end of a key is missing"));
    check(&rsa.replace("MII", "!!!"), Err("not base64"));
    check(&rsa.replace("MIIB", "AIIB"), Err("it must be an RSA"));
}

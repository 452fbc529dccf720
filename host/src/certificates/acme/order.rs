//! One order: from the names to the certificate.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::failure::{OrderFailure, said};
use super::proofs::{self, Proof, ProofPlaces, ProofText};
use lodge_base::config::acme::AcmeChallenge;

/// How long the authority may take to look for the proofs, and as long again to issue.
const DECISION: Duration = Duration::from_secs(120);

/// Asks after 250 ms, and then less and less often.
const POLL: RetryPolicy = RetryPolicy::new().backoff(1.5).timeout(DECISION);

/// What a certificate is ordered with.
pub(super) struct CertificateRequest {
    /// The private key, as PEM.
    pub(super) key: String,
    /// The request for the certificate, as DER.
    request: Vec<u8>,
}

impl CertificateRequest {
    /// Makes a new key, and a request for these names.
    pub(super) fn new(names: &[String]) -> Result<Self, OrderFailure> {
        let key = KeyPair::generate().map_err(OrderFailure::unusable)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(OrderFailure::unusable)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(OrderFailure::unusable)?;
        Ok(Self { key: key.serialize_pem(), request: request.der().to_vec() })
    }
}

/// Orders a certificate for these names. Returns its chain, as PEM.
pub(super) async fn order(
    account: &Account,
    names: &[String],
    request: &CertificateRequest,
    challenge: AcmeChallenge,
    places: ProofPlaces<'_>,
) -> Result<String, OrderFailure> {
    let identifiers: Vec<_> = names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let issued = async {
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        prove(&mut order, challenge, places).await?;
        order.finalize_csr(&request.request).await?;
        Ok(order.poll_certificate(&POLL).await?)
    };
    // The authority may have counted the order, although the response to it was lost.
    issued.await.map_err(OrderFailure::counted)
}

/// Proves every name that the account has not proven before.
async fn prove(order: &mut Order, challenge: AcmeChallenge, places: ProofPlaces<'_>) -> Result<(), OrderFailure> {
    let kind = match challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    };
    let mut wanted = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(OrderFailure::refused(format!("the authorization of {name} is {other:?}"))),
        }
        let Some(offered) = authorization.challenge(kind.clone()) else {
            let challenge = challenge.name();
            return Err(OrderFailure::refused(format!(
                "the authority offers no {challenge} for {name}; set tls.acme.challenge"
            )));
        };
        let authorization = offered.key_authorization().as_str().to_owned();
        wanted.push(ProofText { name, token: offered.token.clone(), authorization });
    }
    let proofs = wanted.iter().map(|text| Proof::new(challenge, text));
    let proofs = proofs.collect::<Result<_, _>>().map_err(OrderFailure::refused)?;
    let _published = places.own.publish(proofs);
    if let Some(shared) = places.shared {
        proofs::show(shared, &wanted).await?;
    }
    let decided = match announce(order, &kind).await {
        Ok(()) => order.poll_ready(&POLL).await,
        Err(error) => Err(error),
    };
    if matches!(decided, Ok(OrderStatus::Ready | OrderStatus::Valid)) {
        return Ok(());
    }
    // The order says that it failed, and its authorizations why.
    let why = unproven(order).await;
    Err(match (why, decided) {
        (Some(why), _) => OrderFailure::refused(why),
        (None, Err(error)) => error.into(),
        (None, Ok(status)) => OrderFailure::refused(format!("the order is {status:?}")),
    })
}

/// Tells the authority that it may look for the proofs. It may do so, and fail, before it responds.
async fn announce(order: &mut Order, kind: &ChallengeType) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut offered) = authorization.challenge(kind.clone())
        {
            offered.set_ready().await?;
        }
    }
    Ok(())
}

/// Returns which name the authority has seen no proof of, and what it says of that.
async fn unproven(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let problem = authorization.challenges.iter().find_map(|tried| Some((tried, tried.error.as_ref()?)));
        if let Some((tried, problem)) = problem {
            let name = authorization.identifier().to_string();
            let challenge = match &tried.r#type {
                ChallengeType::Http01 => AcmeChallenge::Http01.name(),
                ChallengeType::TlsAlpn01 => AcmeChallenge::TlsAlpn01.name(),
                _ => "another challenge",
            };
            return Some(format!("the authority has seen no proof of {name} by {challenge}: {}", said(problem)));
        }
    }
    None
}

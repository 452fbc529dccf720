//! Texts that no request has in the place where a condition looks for them: such a condition never holds, and its rule does nothing.

use std::net::IpAddr;

use cel::common::ast::{Expr, IdedExpr};

use super::{CelProblem, fail};
use crate::expression::node::{Arithmetic, CelNode, Literal, Search, Variable};
use lodge_base::canonical;

/// The methods of requests that services get.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// What `identity.kind` can be.
const KINDS: [&str; 8] = ["anonymous", "api-key", "basic", "jwt", "client-certificate", "login", "call", "host"];

/// Refuses a text that a variable never is.
pub(super) fn check(id: u64, variable: &CelNode, text: &CelNode) -> Result<(), CelProblem> {
    let (CelNode::Variable(variable), CelNode::Literal(Literal::Text(text))) = (variable, text) else { return Ok(()) };
    let capital = text.to_ascii_uppercase();
    let wrong = match variable {
        Variable::Method if !METHODS.contains(&&**text) => match METHODS.contains(&&*capital) {
            true => format!("no request has the method `{text}`; write `{capital}`"),
            false => format!("no request has the method `{text}`; there are `{}`", METHODS.join("`, `")),
        },
        Variable::Path => {
            let form = canonical::normal(text).filter(|_| text.starts_with('/'));
            match form.map(|form| canonical::comparable(&form)) {
                Some(form) if form == *text => return Ok(()),
                Some(form) => format!("no path has this spelling; write `{form}`"),
                None => "a path begins with `/`".into(),
            }
        }
        Variable::Kind if !KINDS.contains(&&**text) => {
            format!("nobody is of the kind `{text}`; there are `{}`", KINDS.join("`, `"))
        }
        Variable::Scheme if !["http", "https"].contains(&&**text) => "it is `http` or `https`".into(),
        Variable::Host => match canonical::canonical_host(text) {
            Some(form) if form == **text => return Ok(()),
            Some(form) => format!("hosts are in small letters; write `{form}`"),
            None => "a host is written without a port, like `api.example.com`".into(),
        },
        Variable::Address => match text.parse::<IpAddr>().map(|address| address.to_canonical().to_string()) {
            Ok(form) if form == *text => return Ok(()),
            Ok(form) => format!("no address has this spelling; write `{form}`"),
            Err(_) => format!(
                "`{text}` is not an address; of networks write cidr(\"10.0.0.0/8\").containsIP(client.address), with || between several"
            ),
        },
        _ => return Ok(()),
    };
    fail(id, wrong)
}

/// Refuses a part of a path that none has.
pub(super) fn check_part(id: u64, search: Search, variable: &CelNode, part: &CelNode) -> Result<(), CelProblem> {
    let (CelNode::Variable(Variable::Path), CelNode::Literal(Literal::Text(text))) = (variable, part) else {
        return Ok(());
    };
    if search == Search::StartsWith && !text.is_empty() && !text.starts_with('/') {
        return fail(id, "a path begins with `/`");
    }
    let form = canonical::comparable(text);
    if form == *text { Ok(()) } else { fail(id, format!("no path has this spelling; write `{form}`")) }
}

/// Explains `request.headers.user-agent`, which is a subtraction.
pub(super) fn check_name(id: u64, by: Arithmetic, left: &IdedExpr, right: &IdedExpr) -> Result<(), CelProblem> {
    let (Arithmetic::Subtract, Expr::Select(left), Expr::Ident(end)) = (by, &left.expr, &right.expr) else {
        return Ok(());
    };
    let Expr::Select(map) = &left.operand.expr else { return Ok(()) };
    if !matches!(&map.operand.expr, Expr::Ident(root) if root == "request") {
        return Ok(());
    }
    let (map, start) = (&map.field, &left.field);
    fail(id, format!("`-` subtracts; write request.{map}[\"{start}-{end}\"]"))
}

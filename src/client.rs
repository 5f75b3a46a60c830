//! Asks a running instance, over its admin API.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::cli::InstanceArgs;

/// How long an answer may take. A reload reads files and runs tests.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a change is asked for while a process takes over, and how long in between.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_secs(1);

/// A running instance.
pub(crate) struct Instance {
    client: reqwest::Client,
    admin: String,
    token: Option<String>,
}

impl Instance {
    /// The instance that the arguments name.
    pub(crate) fn new(args: &InstanceArgs) -> anyhow::Result<Self> {
        let admin = args.admin.trim_end_matches('/');
        // People write what stands in their configuration: an address.
        let scheme = if admin.contains("://") { "" } else { "http://" };
        let admin = format!("{scheme}{admin}");
        if reqwest::Url::parse(&admin).is_err() {
            anyhow::bail!(
                "`{}` is no address of an admin API: it looks like http://127.0.0.1:9470",
                args.admin
            );
        }
        Ok(Self {
            client: reqwest::Client::builder()
                .timeout(TIMEOUT)
                .no_proxy()
                .build()?,
            admin,
            token: args.token.clone(),
        })
    }

    /// The same, to listen for as long as it speaks: it says something every few seconds.
    pub(crate) fn following(args: &InstanceArgs) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(TIMEOUT)
            .read_timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self {
            client,
            ..Self::new(args)?
        })
    }

    /// Events from behind this one on, as they happen.
    pub(crate) async fn events(&self, last: Option<&str>) -> anyhow::Result<Response> {
        let mut request = self.request(Method::GET, "/events?follow=true");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        succeeded(self.answer(request).await?).await
    }

    /// Asks for a resource of the API.
    pub(crate) async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<T> {
        let response = self.send(Method::GET, path, None).await?;
        let response = succeeded(response).await?;
        response
            .json()
            .await
            .context("the answer of the admin API cannot be read")
    }

    /// Sends something to the API. The answer, good or bad.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(reqwest::StatusCode, Value)> {
        let response = self.send(Method::POST, path, body).await?;
        let status = response.status();
        let value = response
            .json()
            .await
            .context("the answer of the admin API cannot be read")?;
        Ok((status, value))
    }

    /// Makes a change. Its answer.
    pub(crate) async fn change<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        let mut tries = 0;
        let response = loop {
            let response = self.send(method.clone(), path, Some(body)).await?;
            // Another process is just taking over, and knows soon.
            let again = response.headers().contains_key("retry-after");
            tries += 1;
            if !again || tries == TRIES {
                break succeeded(response).await?;
            }
            tokio::time::sleep(BETWEEN).await;
        };
        response
            .json()
            .await
            .context("the answer of the admin API cannot be read")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1{path}", self.admin);
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| {
            if error.is_connect() {
                anyhow!(
                    "no instance answers at {}: is it running? (--admin says where)",
                    self.admin
                )
            } else {
                anyhow!(error)
            }
        })
    }
}

/// Turns a problem into an error.
async fn succeeded(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Value = response.json().await.unwrap_or_default();
    bail!(problem_words(status, &problem));
}

/// A problem in one line.
pub(crate) fn problem_words(status: reqwest::StatusCode, problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let hint = if status == reqwest::StatusCode::UNAUTHORIZED {
        " (--token, or PORTOLAN_TOKEN)"
    } else {
        ""
    };
    match (text("title"), text("detail")) {
        (title, _) if title.is_empty() => format!("the admin API answered with {status}"),
        (title, detail) if detail.is_empty() => title,
        (title, detail) => format!("{title}: {detail}{hint}"),
    }
}

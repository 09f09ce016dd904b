//! JSON schemas for kubeconform, made of what Kubernetes and the makers of custom kinds say themselves: the OpenAPI
//! specification of the API server, and the definitions of KEDA and of the Prometheus operator. Strict: unknown fields are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use bounceflow_stack::tools;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::document;

const REF: &str = "#/definitions/";

/// A folder of schemas, one for each kind there is.
pub struct Schemas(TempDir);

impl Schemas {
    /// Those of Kubernetes and of the custom kinds the chart knows.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for (name, schema) in builtin()?.into_iter().chain(custom()?) {
            fs::write(folder.path().join(name), schema.to_string())?;
        }
        Ok(Self(folder))
    }

    /// `kubeconform -strict` over a file of objects; every kind must be known.
    pub fn kubeconform(&self, objects: &Path) -> Result<Command> {
        let mut kubeconform = Command::new(tools::kubeconform()?);
        let location = self.0.path().join("{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json");
        kubeconform.args(["-strict", "-summary", "-schema-location"]).arg(location).arg(objects);
        Ok(kubeconform)
    }
}

/// The core group has no name; kubeconform then says the version in its place.
fn name(group: &str, version: &str, kind: &str) -> String {
    let group = if group.is_empty() { version } else { group };
    format!("{group}_{version}_{}.json", kind.to_lowercase())
}

fn builtin() -> Result<BTreeMap<String, Value>> {
    let file = tools::module(tools::KUBERNETES_MODULE)?.join("api/openapi-spec/swagger.json");
    let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    let mut specification: Value = serde_json::from_str(&text)?;
    let definitions = specification["definitions"].as_object_mut().context("a specification without definitions")?;
    for (id, definition) in definitions.iter_mut() {
        match id.as_str() {
            // Said to be strings, taken as numbers too.
            "io.k8s.apimachinery.pkg.api.resource.Quantity" | "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
                *definition = json!({"type": ["string", "number"]});
            }
            _ => strict(definition),
        }
    }
    let definitions = std::mem::take(definitions);
    let mut schemas = BTreeMap::new();
    for (id, definition) in &definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let part = |field: &str| kind[field].as_str().unwrap_or_default();
            let mut needed = BTreeSet::new();
            reach(id, &definitions, &mut needed);
            let needed: Map<String, Value> = needed.into_iter().map(|id| (id.to_owned(), definitions[id].clone())).collect();
            let schema = json!({"$ref": format!("{REF}{id}"), "definitions": needed});
            schemas.insert(name(part("group"), part("version"), part("kind")), schema);
        }
    }
    Ok(schemas)
}

/// Every definition that one names, and it itself.
fn reach<'d>(id: &'d str, definitions: &'d Map<String, Value>, found: &mut BTreeSet<&'d str>) {
    if !found.insert(id) {
        return;
    }
    let mut open = vec![&definitions[id]];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(id) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF)) {
                    reach(id, definitions, found);
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

fn custom() -> Result<BTreeMap<String, Value>> {
    let mut schemas = BTreeMap::new();
    for definition in definitions_of_custom_kinds()? {
        let definition = document(&definition)?;
        let spec = &definition["spec"];
        let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for version in spec["versions"].as_array().into_iter().flatten() {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            // The API server knows these by itself.
            for (field, known) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
                schema["properties"][field] = json!({"type": known, "x-kubernetes-preserve-unknown-fields": true});
            }
            strict(&mut schema);
            schemas.insert(name(&part(&spec["group"]), &part(&version["name"]), &part(&spec["names"]["kind"])), schema);
        }
    }
    Ok(schemas)
}

/// The definitions (YAML) of the custom kinds that the chart knows.
pub fn definitions_of_custom_kinds() -> Result<Vec<String>> {
    let keda = tools::module(tools::KEDA_MODULE)?.join("config/crd/bases");
    let operator = tools::module(tools::PROMETHEUS_OPERATOR_MODULE)?.join("example/prometheus-operator-crd");
    let files = [
        keda.join("keda.sh_scaledobjects.yaml"),
        keda.join("keda.sh_triggerauthentications.yaml"),
        operator.join("monitoring.coreos.com_servicemonitors.yaml"),
        operator.join("monitoring.coreos.com_podmonitors.yaml"),
        operator.join("monitoring.coreos.com_prometheusrules.yaml"),
    ];
    files.iter().map(|file| fs::read_to_string(file).with_context(|| format!("no {}", file.display()))).collect()
}

/// Refuses fields that a schema does not name, in it and in everything below.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                fields.insert("type".into(), json!(["string", "integer"]));
                fields.remove("anyOf");
            }
            let typed = fields.get("properties").is_some_and(Value::is_object);
            if typed && !open && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), Value::Bool(false));
            }
            fields.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}

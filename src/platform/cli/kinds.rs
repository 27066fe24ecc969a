//! `dzvin kinds`: kinds as files. What is declared so is declared over the API, on all nodes; they may be running or not.

use std::{path::Path, time::Duration};

use dzvin_protocols::{entities::Declaration, platform::Kind};

use super::{Exit, Failure, KindsAction, serve};
use crate::{
    entities::{DeclareError, Declaring, Entities, Examined, KindRow, Origin},
    identity::audit::Who,
    platform::config::Config,
};

/// Who the audit says it was.
const WHO: &str = "dzvin-kinds";
/// Largest file: a schema, and what stands around it.
const MAX_FILE: u64 = 256 * 1024;
/// How long entities are looked at: nobody waits for an answer, and whoever does may stop it.
const WITHIN: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(config: &Config, action: &KindsAction) -> Result<(), Failure> {
    let database = serve::database(config)?;
    let entities = Entities::open(database, Vec::new()).await.map_err(Failure::unavailable)?;
    match action {
        KindsAction::List => list(&entities).await,
        KindsAction::Show { kind } => show(&entities, kind).await,
        KindsAction::Apply { dry_run, force, files } => {
            for file in files {
                apply(&entities, file, *dry_run, *force).await?;
            }
            Ok(())
        }
    }
}

async fn list(entities: &Entities) -> Result<(), Failure> {
    for KindRow { kind, source, origin, version, declaration, .. } in
        entities.kinds().await.map_err(Failure::unavailable)?
    {
        let origin = if origin == Origin::Api { "api" } else { "configuration" };
        println!("{kind}\t{source}\t{origin}\tversion {version}\t{}", declaration.fields.join(","));
    }
    Ok(())
}

async fn show(entities: &Entities, kind: &str) -> Result<(), Failure> {
    let kind = Kind::new(kind).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let row = entities.kind(&kind).await.map_err(Failure::unavailable)?;
    let row = row.ok_or_else(|| Failure::new(Exit::Usage, format!("there is no kind {kind}")))?;
    println!("{}", serde_json::to_string_pretty(&row.declaration).map_err(Failure::internal)?);
    Ok(())
}

async fn apply(entities: &Entities, file: &Path, dry_run: bool, force: bool) -> Result<(), Failure> {
    let (kind, declaration) =
        read(file).map_err(|why| Failure::new(Exit::Usage, format!("{}: {why}", file.display())))?;
    let asked = Declaring { kind: kind.clone(), declaration, expected: None, force, within: WITHIN };
    if dry_run {
        let examined = entities.examine(&asked).await.map_err(|error| refused(file, &error))?;
        tell(&kind, &examined);
        return Ok(());
    }
    let declared = entities.declare(&asked, &Who::from(WHO)).await.map_err(|error| {
        if let DeclareError::Unfit(examined) = &error {
            tell(&kind, examined);
        }
        refused(file, &error)
    })?;
    println!("{kind}: version {}{}", declared.version, if declared.changed { "" } else { ", as it was" });
    Ok(())
}

/// The kind is called as its file is.
fn read(file: &Path) -> Result<(Kind, Declaration), String> {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let kind = Kind::new(name).map_err(|error| format!("the file is called as its kind is: {error}"))?;
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    Ok((kind, serde_json::from_str(&text).map_err(|error| error.to_string())?))
}

fn tell(kind: &Kind, examined: &Examined) {
    println!("{kind}: {} entities were looked at, {} do not fit", examined.checked, examined.unfit);
    for it in &examined.examples {
        for error in &it.errors {
            println!("  {} {}: {}", it.id, error.pointer, error.detail);
        }
    }
    for (what, names) in
        [("derived in the background", &examined.derives), ("indexed in the background", &examined.indexes)]
    {
        if !names.is_empty() {
            println!("  {what}: {}", names.join(", "));
        }
    }
}

fn refused(file: &Path, error: &DeclareError) -> Failure {
    let exit = if matches!(error, DeclareError::Store(_)) { Exit::Unavailable } else { Exit::Usage };
    Failure::new(exit, format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_its_kind() {
        let dir = tempfile::tempdir().expect("dir");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            read(&path).map(|(kind, declaration)| (kind.to_string(), declaration.fields))
        };
        assert_eq!(write("customer.json", r#"{"fields":["name"]}"#), Ok(("customer".into(), vec!["name".into()])));
        assert!(write("Customer.json", "{}").expect_err("no kind").starts_with("the file is called as its kind is"));
        assert!(write("deal.json", r#"{"field":[]}"#).expect_err("unknown").contains("unknown field"));
    }
}

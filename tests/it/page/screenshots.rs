//! Takes pictures of every state, for people to look at.

use std::fs;
use std::path::Path;

use super::states::Shown;

const LOOKS: [(&str, u32); 6] =
    [("light", 1280), ("dark", 1280), ("forced", 1280), ("light", 360), ("dark", 360), ("forced", 360)];

#[tokio::test]
#[ignore = "writes pictures: make screenshots"]
async fn every_state_light_dark_and_with_forced_colours_wide_and_narrow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    fs::create_dir_all(&folder).unwrap();
    let shown = Shown::set().await;
    let page = &shown.stage.browser;
    for (theme, width) in LOOKS {
        page.look(theme, width).await;
        shown
            .visit(async |state| {
                fs::write(folder.join(format!("{state}-{theme}-{width}.png")), page.screenshot().await).unwrap();
            })
            .await;
    }
    eprintln!("written to {}", folder.display());
}

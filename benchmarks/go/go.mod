module noop

go 1.19

require google.golang.org/grpc v1.58.3

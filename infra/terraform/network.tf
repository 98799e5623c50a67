# `ray up` takes the security group of this name and leaves it alone, because it has rules.
resource "aws_security_group" "ray" {
  name        = "ssd-ray"
  description = "Ray nodes: everything among themselves, SSH for those who start them"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "among_nodes" {
  security_group_id            = aws_security_group.ray.id
  description                  = "Ray, NCCL and Gloo choose their ports freely"
  referenced_security_group_id = aws_security_group.ray.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  security_group_id = aws_security_group.ray.id
  description       = "ray up, ray dashboard, ray attach"
  cidr_ipv4         = var.ssh_cidr
  from_port         = 22
  to_port           = 22
  ip_protocol       = "tcp"
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.ray.id
  description       = "S3, the image registry, the MLflow server"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

variable "region" {
  description = "Where everything is; the same as in infra/aws.yaml."
  type        = string
  default     = "eu-central-1"
}

variable "bucket" {
  description = "Name of the bucket for shards, checkpoints, MLflow's files and DVC's cache. Unique in all of S3."
  type        = string
}

variable "vpc_id" {
  description = "The network the nodes run in; the one whose subnets `ray up` finds: the account's default VPC."
  type        = string
}

variable "ssh_cidr" {
  description = "Who may reach the nodes by SSH, which `ray up` needs: your own address, as 203.0.113.7/32."
  type        = string

  validation {
    condition     = can(cidrhost(var.ssh_cidr, 0)) && tonumber(split("/", var.ssh_cidr)[1]) >= 16
    error_message = "ssh_cidr must be a network of /16 or smaller, such as 203.0.113.7/32: not the whole world."
  }
}

variable "keep_days" {
  description = "How long what was overwritten or deleted can be brought back."
  type        = number
  default     = 30
}

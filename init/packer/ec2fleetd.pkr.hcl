# An AMI of Debian with ec2fleetd in it:
#
#   packer init init/packer
#   packer build -var archive=ec2fleetd-0.1.0-x86_64-linux-musl.tar.gz -var config=my-app.jsonc init/packer
#
# Without `config`, instances take their config from the user data. The work is done by install-image.sh, which is in
# the archive: for another distribution change the source image and its user.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "archive" {
  type        = string
  description = "The release archive for the processor of the image."
}

variable "config" {
  type        = string
  default     = ""
  description = "A config, NAME.jsonc. Empty: the user data."
}

variable "region" {
  type    = string
  default = "eu-west-1"
}

# For aarch64: "arm64" and an instance type such as "t4g.small".
variable "architecture" {
  type    = string
  default = "amd64"
}

variable "instance_type" {
  type    = string
  default = "t3.small"
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = var.instance_type
  ssh_username  = "admin"
  ami_name      = "ec2fleetd-${formatdate("YYYYMMDD-hhmmss", timestamp())}"

  source_ami_filter {
    filters = {
      name                = "debian-12-${var.architecture}-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    # Debian's own account.
    owners      = ["136693071363"]
    most_recent = true
  }

  # ec2fleetd speaks version 2 of the metadata service only; so may the image.
  imds_support = "v2.0"
  metadata_options {
    http_tokens = "required"
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = var.archive
    destination = "/tmp/ec2fleetd.tar.gz"
  }

  provisioner "shell" {
    environment_vars = [
      "NAME=${basename(var.config)}",
      "CONFIG=${var.config == "" ? "" : base64encode(file(var.config))}",
    ]
    inline = [
      "set -eu",
      "mkdir /tmp/ec2fleetd",
      "tar -xzf /tmp/ec2fleetd.tar.gz -C /tmp/ec2fleetd --strip-components=1",
      "config=/tmp/ec2fleetd/$NAME",
      "[ -z \"$CONFIG\" ] || echo \"$CONFIG\" | base64 -d >\"$config\"",
      "[ -z \"$CONFIG\" ] && option=--userdata || option=--config=$config",
      "sudo /tmp/ec2fleetd/init/install-image.sh \"$option\" /",
      "rm -r /tmp/ec2fleetd /tmp/ec2fleetd.tar.gz",
    ]
  }
}

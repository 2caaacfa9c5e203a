# The variables are the parameters of deploy/aws/webhookd.yaml. A test compares the two.

variable "queue_name" {
  description = "Name of the queue. The dead-letter queue's is the same with -dead-letters."
  type        = string
  default     = "webhookd"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,67}$", var.queue_name))
    error_message = "queue_name: 1 to 67 letters, digits, hyphens and underscores; SQS allows 80, and -dead-letters takes 13."
  }
}

variable "visibility_timeout" {
  description = "Seconds that a received message stays hidden. The daemon gives WEBHOOKD_VISIBILITY_TIMEOUT at each receive."
  type        = number
  default     = 60

  validation {
    condition     = var.visibility_timeout >= 2 && var.visibility_timeout <= 43200
    error_message = "visibility_timeout: from 2 to 43200."
  }
}

variable "max_receive_count" {
  description = "Receives until SQS moves a message to the dead-letter queue, from where webhookd sends its events again."
  type        = number
  default     = 20

  validation {
    condition     = var.max_receive_count >= 10 && var.max_receive_count <= 1000
    error_message = "max_receive_count: from 10 to 1000."
  }
}

variable "retention_seconds" {
  description = "Seconds that the queue keeps a message. Less than the 14 days of the dead-letter queue: a message that SQS moves there keeps its age. What is lost is sent again from PostgreSQL, but late."
  type        = number
  default     = 604800

  validation {
    condition     = var.retention_seconds >= 345600 && var.retention_seconds <= 1123200
    error_message = "retention_seconds: from 345600 to 1123200."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the queues; if it is empty, SQS's own keys (SSE-SQS) do. The key's policy must leave to IAM policies who may use the key."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+)?$", var.kms_key_arn))
    error_message = "kms_key_arn: the ARN of a key, and not of an alias, or nothing."
  }
}

variable "oidc_provider" {
  description = "The OIDC provider of an EKS cluster, as oidc.eks.us-east-1.amazonaws.com/id/0123456789ABCDEF; it makes a role for a service account (IRSA)."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9.-]+(/[A-Za-z0-9_-]+)*)?$", var.oidc_provider))
    error_message = "oidc_provider: the issuer's address without https://, or nothing."
  }
}

variable "pod_identity" {
  description = "true makes a role for EKS Pod Identity."
  type        = bool
  default     = false
}

variable "instance_role" {
  description = "true makes a role for EC2 instances, and its instance profile."
  type        = bool
  default     = false
}

variable "kubernetes_namespace" {
  description = "Namespace of the service account that may take a role, by IRSA or by Pod Identity."
  type        = string
  default     = "webhookd"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.kubernetes_namespace))
    error_message = "kubernetes_namespace: a name as Kubernetes allows for a namespace."
  }
}

variable "kubernetes_service_account" {
  description = "Name of that service account."
  type        = string
  default     = "webhookd"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.kubernetes_service_account))
    error_message = "kubernetes_service_account: a name as Kubernetes allows for a service account."
  }
}

variable "destination_arns" {
  description = "ARNs of the queues of SQS, topics of SNS and buses of EventBridge that webhookd sends events to (WEBHOOKD_DESTINATIONS), with commas and no spaces between them."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:(sqs|sns|events):[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9._/-]+(,arn:aws[a-z-]*:(sqs|sns|events):[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9._/-]+)*)?$", var.destination_arns))
    error_message = "destination_arns: ARNs of queues, topics and buses, or nothing."
  }
}

variable "alarm_topic_arn" {
  description = "ARN of the SNS topic that alarms go to; if it is empty, they show in CloudWatch only. If a KMS key encrypts the topic, the key's policy must let cloudwatch.amazonaws.com use the key."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+)?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn: the ARN of a standard topic, or nothing."
  }
}

variable "oldest_message_seconds" {
  description = "Alarm when a message has waited for so many seconds. SQS does not count one that was received more than three times, so what is tried again and again does not alarm."
  type        = number
  default     = 600

  validation {
    condition     = var.oldest_message_seconds >= 60
    error_message = "oldest_message_seconds: at least 60."
  }
}

variable "in_flight_messages" {
  description = "Alarm when so many messages are in hand or wait for another attempt. At 120000, SQS gives out no more."
  type        = number
  default     = 90000

  validation {
    condition     = var.in_flight_messages >= 1 && var.in_flight_messages <= 119999
    error_message = "in_flight_messages: from 1 to 119999."
  }
}
